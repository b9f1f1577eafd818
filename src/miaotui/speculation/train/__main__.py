"""``python -m miaotui.speculation.train``: train a draft head for a model."""

from __future__ import annotations

from miaotui.speculation.train.trainer import main

if __name__ == "__main__":
    main()
