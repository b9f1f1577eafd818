"""``miaotui tenant``: who may use a server, and how much."""
