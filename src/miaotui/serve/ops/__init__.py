"""Operations: health, metrics, logs, traces, the audit log."""
