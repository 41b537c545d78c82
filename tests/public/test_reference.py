"""What every public name must have: a docstring, and an example that runs."""

import doctest
import inspect

import pytest

import jaxdm


def documented(name: str) -> str:
  """A public name's docstring."""
  return inspect.getdoc(getattr(jaxdm, name)) or ""


@pytest.mark.parametrize("name", jaxdm.__all__)
def test_every_public_name_is_described(name) -> None:
  text, value = documented(name), getattr(jaxdm, name)
  assert value.__doc__ and value.__module__.startswith("jaxdm."), name
  first = text.splitlines()[0]
  assert first.endswith((".", ":")) and len(first) > 20
  if inspect.isfunction(value):
    parameters = inspect.signature(value).parameters
    section = text.partition("Args:")[2]
    missing = [p for p in parameters if f"\n  {p}:" not in section]
    assert not missing, missing
    assert not parameters or "Args:" in text
    if inspect.signature(value).return_annotation not in (None, "None"):
      assert "Returns:" in text
  elif hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__"):
    fields = getattr(value, "_fields", None) or value.__dataclass_fields__
    section = text.partition("Attributes:")[2]
    missing = [f for f in fields if f"\n  {f}:" not in section]
    assert not missing, missing


@pytest.mark.parametrize("name", jaxdm.__all__)
def test_every_public_name_has_an_example_that_is_true(
  name, tmp_path, monkeypatch
) -> None:
  monkeypatch.chdir(tmp_path)
  parsed = doctest.DocTestParser().get_doctest(documented(name), {}, name, None, 0)
  assert parsed.examples, f"{name} has no example"
  said: list[str] = []
  runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
  runner.run(parsed, out=said.append)
  assert not runner.failures, "".join(said)


def test_names_that_do_not_exist_are_refused() -> None:
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    _ = jaxdm.nothing
  assert dir(jaxdm) == sorted(jaxdm.__all__)
