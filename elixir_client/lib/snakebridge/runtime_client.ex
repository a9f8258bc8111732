defmodule SnakeBridge.RuntimeClient do
  @moduledoc """
  What carries a payload to Python and its answer back: `SnakeBridge.Pool`, `Snakepit` (through `SnakeBridge.SnakepitClient`), or a stub of your
  own in tests.

      config :snakebridge, runtime_client: MyApp.StubClient

  A client without `native_terms?/0` gets args and kwargs in tagged form (`SnakeBridge.Types`), ready for JSON, and its results are decoded.
  """
  @callback execute(tool :: String.t(), payload :: map(), opts :: keyword()) ::
              {:ok, term()} | {:error, term()}
  @callback execute_stream(
              tool :: String.t(),
              payload :: map(),
              callback :: (term() -> term()),
              opts :: keyword()
            ) ::
              :ok | {:ok, term()} | {:error, term()}
  @callback native_terms?() :: boolean()
  @doc "Called before a payload that holds Elixir functions is sent: Python will call them as tool `snakebridge.callback` of that session."
  @callback offer_functions(session_id :: String.t()) :: :ok
  @doc "Called by a process that reads a stream lazily, before another process runs it: a client that ends sessions with their processes notes this one."
  @callback track(payload :: map()) :: :ok
  @optional_callbacks native_terms?: 0, execute_stream: 4, offer_functions: 1, track: 1

  @override :snakebridge_runtime_client

  @doc "The client in force: of this process, of the configuration, else the embedded pool."
  @spec current() :: module()
  def current,
    do: named(Process.get(@override) || Application.get_env(:snakebridge, :runtime_client, SnakeBridge.Pool))

  defp named(Snakepit), do: SnakeBridge.SnakepitClient
  defp named(client), do: client

  @doc "Runs a function with another client in this process."
  @spec with_client(module(), (() -> result)) :: result when result: term()
  def with_client(client, fun) do
    before = Process.put(@override, client)

    try do
      fun.()
    after
      if before, do: Process.put(@override, before), else: Process.delete(@override)
    end
  end

  @doc "True when the client takes Elixir terms as they are."
  @spec native?(module()) :: boolean()
  def native?(client), do: has?(client, :native_terms?, 0) and client.native_terms?()

  @doc "Whether a client has one of the callbacks that are optional."
  @spec has?(module(), atom(), arity()) :: boolean()
  def has?(client, callback, arity),
    do: Code.ensure_loaded?(client) and function_exported?(client, callback, arity)
end
