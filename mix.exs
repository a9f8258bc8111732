defmodule SnakeBridge.MixProject do
  use Mix.Project

  def project do
    [
      app: :snakebridge,
      version: "0.1.0",
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      test_paths: ["elixir_client/test"],
      start_permanent: Mix.env() == :prod,
      # Tests implement the protocols for types of their own.
      consolidate_protocols: Mix.env() != :test,
      description: "Python for the BEAM: lossless calls, streams, sessions and GPU flows.",
      package: [licenses: ["MIT"], files: ["elixir_client/lib", "mix.exs", "README.md", "LICENSE"]],
      # Debian's erlang-proper, which only tests use.
      xref: [exclude: [:proper, :proper_types]],
      deps: []
    ]
  end

  def application do
    [extra_applications: [:logger, :crypto, :public_key, :ssl], mod: {SnakeBridge.Application, []}]
  end

  defp elixirc_paths(:test), do: ["elixir_client/lib", "elixir_client/test/support"]
  defp elixirc_paths(_), do: ["elixir_client/lib"]
end
