[
  inputs: [
    "mix.exs",
    ".formatter.exs",
    "elixir_client/**/*.{ex,exs}",
    "bench/**/*.{ex,exs}",
    "examples/**/*.{ex,exs}"
  ],
  line_length: 110
]
