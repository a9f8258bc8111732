[
  inputs: [
    "mix.exs",
    ".formatter.exs",
    "elixir_client/**/*.{ex,exs}",
    "bench/**/*.{ex,exs}",
    "tests/chaos/*.exs",
    # Not what the compiler of wrappers writes there.
    "examples/*.exs",
    "examples/*/{mix,show,chat}.exs",
    "examples/*/{config,test}/**/*.exs",
    "examples/*/lib/sessions/*.ex"
  ],
  line_length: 110
]
