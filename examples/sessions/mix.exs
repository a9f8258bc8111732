defmodule Sessions.MixProject do
  use Mix.Project

  def project do
    [
      app: :sessions,
      version: "0.1.0",
      elixir: "~> 1.14",
      # Writes the wrappers of the calls below lib/ before Elixir compiles them.
      compilers: [:snakebridge] ++ Mix.compilers(),
      deps: [{:snakebridge, path: "../.."}]
    ]
  end

  def application, do: [extra_applications: [:logger]]
end
