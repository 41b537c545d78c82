"""The one type of error that a user can mend."""


class UserError(ValueError):
  """Settings, files or a machine that cannot be used; the message says what to change.

  Programs print it as one line. A ValueError of any other class is a mistake in code, of
  this library or of its caller, and keeps its traceback.
  """
