"""How large an explanation may be. What would be larger is refused, with an error that says so."""

MOST_NUMBERS = 1 << 25  # that a result holds: a quarter of a gigabyte in float64
MOST_VISITS = 10_000_000  # of nodes, by all sweeps for one result: some tens of seconds
