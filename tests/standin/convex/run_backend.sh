#!/bin/sh
exec python3 /convex/standin.py backend "$@"
