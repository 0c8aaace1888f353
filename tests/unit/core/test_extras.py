from __future__ import annotations

import pytest

from operators.core.errors import ConfigurationError
from operators.core.extras import require


def test_what_is_installed_passes() -> None:
    require("ray", "json", "os.path", purpose="This test")


def test_what_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigurationError) as raised:
        require("gx", "json", "no_such_module", "no_such.module", purpose="Validation")
    assert str(raised.value) == (
        "Validation needs the extra `gx`: pip install 'taxiway[gx]' (not installed: no_such_module, no_such.module)"
    )
