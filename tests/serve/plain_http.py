"""httpx for servers on this machine: without certificates, whose loading takes longer than a request."""

from __future__ import annotations

import functools

import httpx

get = functools.partial(httpx.get, verify=False)
post = functools.partial(httpx.post, verify=False)
stream = functools.partial(httpx.stream, verify=False)
