"""The one type of error that a user can mend."""


class UserError(ValueError):
  """Settings, files or a machine that cannot be used; the message says what to change.

  >>> import jaxdm
  >>> try:
  ...   jaxdm.TrainConfig(momentum=2.0)
  ... except jaxdm.UserError as error:
  ...   print(error)
  momentum must be in [0, 1), got 2.0

  Programs print it as one line. A ValueError of any other class is a mistake in code, of
  this library or of its caller, and keeps its traceback.
  """
