import Config

python = System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand("../../../.venv/bin/python", __DIR__)

config :snakebridge,
  python: python,
  libraries: [:sklearn, :pandas, :matplotlib, :io, :digit_model],
  pools: [default: [size: 2, python: python, env: [{"PYTHONPATH", Path.expand("../priv/python", __DIR__)}]]]
