"""Reads the package's facts from settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters="=", interpolation=None)
config.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
facts = config["DEFAULT"]
extras = {
    name.removesuffix("_requirements"): facts[name].split()
    for name in facts
    if name.endswith("_requirements")
}

setup(
    version=facts["version"],
    description=facts["description"],
    author=facts["author"],
    license=facts["license"],
    keywords=facts["keywords"].split(),
    packages=find_packages(include=["microclimate", "microclimate.*"]),
    package_data={"microclimate": ["py.typed", "assets/**/*"]},
    exclude_package_data={"": ["*.py[cod]"]},
    install_requires=facts["requirements"].split(),
    extras_require=extras | {"all": sorted({name for extra in extras.values() for name in extra})},
    entry_points={
        "console_scripts": [
            "build_forecast_module=microclimate.delivery.payload:main",
            "forecast_onnx=microclimate.device.runner:main",
            "inspect_weather=microclimate.weather.inspect:main",
        ]
    },
)
