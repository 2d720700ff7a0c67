"""The type checker that pytest puts on every function of vision3d: shapes too, and an int is a float (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
