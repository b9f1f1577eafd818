"""Operations that touch each value of a row once."""
