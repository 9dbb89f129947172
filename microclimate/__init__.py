"""Regional weather forecasting with neural networks.

>>> import microclimate as mc
>>> weather = mc.open_weather("nature", ["2t", "msl"], region=(62, 60, 4, 8))
>>> dict(weather.sizes)
{'time': 192, 'latitude': 9, 'longitude': 17}

README and tutorials use the names below and nothing else. Everything behind them may change.
Each is imported when it is first used: `import microclimate` loads no other package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES = {  # name at the door: module, and the name there (None: the module itself)
    "open_weather": ("weather.open", "open_weather"),
    "inspect_weather": ("weather.inspect", "inspect_weather"),
    "open_forecast": ("weather.forecasts", "open_forecast"),
    "MODELS": ("models.registry", "MODELS"),
    "load_model": ("models.registry", "load_model"),
    "build_model": ("models.registry", "build_model"),
    "save_model": ("models.registry", "save_model"),
    "fit": ("training.fit", "fit_model"),
    "forecast": ("models.rollout", "forecast"),
    "rollout": ("models.rollout", "rollout"),
    "ensemble": ("models.members", "ensemble"),
    "score": ("scores.evaluate", "score"),
    "compare": ("scores.evaluate", "compare"),
    "plot": ("figures.plot", None),
    "Grid": ("grid", "Grid"),
    "Batch": ("batch", "Batch"),
    "WeatherError": ("errors", "WeatherError"),
    "verify": ("provenance", "verify"),
    "register_variable": ("variables", "register_variable"),
    "read_variables": ("variables", "read_variables"),
}
__all__ = [
    "Batch", "Grid", "MODELS", "WeatherError", "build_model", "compare", "ensemble", "fit",
    "forecast", "inspect_weather", "load_model", "open_forecast", "open_weather", "plot",
    "read_variables", "register_variable", "rollout", "save_model", "score", "verify",
]

if TYPE_CHECKING:
    from .batch import Batch
    from .errors import WeatherError
    from .figures import plot
    from .grid import Grid
    from .models.members import ensemble
    from .models.registry import MODELS, build_model, load_model, save_model
    from .models.rollout import forecast, rollout
    from .provenance import verify
    from .scores.evaluate import compare, score
    from .training.fit import fit_model as fit
    from .variables import read_variables, register_variable
    from .weather.forecasts import open_forecast
    from .weather.inspect import inspect_weather
    from .weather.open import open_weather


def __getattr__(name: str) -> Any:
    "Import a name when it is first used (PEP 562)."
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, inside = _HOMES[name]
    module = import_module(f"{__name__}.{home}")
    value = module if inside is None else getattr(module, inside)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
