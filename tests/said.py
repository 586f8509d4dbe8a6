"""What a training command says on standard error."""

EXPECTED = ("note: ", "data: ", "devices: ", "output: ", "model: ", "compiling ", "compiled in ", "step ")
PATIENCE = (
  600  # seconds for what takes some on an idle machine: a busy one fails no test, one that hangs does
)


def unexpected(errors):
  """The lines that do not tell of data, of a start or of progress."""
  return [line for line in errors.splitlines() if not line.startswith(EXPECTED)]
