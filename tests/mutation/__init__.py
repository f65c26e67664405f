"""Whether the tests would notice: `python -m tests.mutation graph`. See the README beside this."""
