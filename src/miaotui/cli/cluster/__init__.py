"""``miaotui cluster``: one model over several processes and machines."""
