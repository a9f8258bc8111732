defmodule SnakeBridge.Reload do
  @moduledoc """
  Development comfort: changed Python modules run again in workers that go on (docs/development.md).

  `reload/2` does it when asked; with `watch: ["priv/python"]` in a pool, or `config :snakebridge, reload: :watch` for all pools, the workers look
  at the files of their modules before a call, at most twice a second.
  """
  alias SnakeBridge.{Error, Exchange, Pool, RuntimeClient}

  @wait 5_000

  @type stale :: %{session_id: String.t(), refs: pos_integer(), types: [String.t()]}
  @type report :: %{
          workers: non_neg_integer(),
          reloaded: [String.t()],
          stale: [stale()],
          running: non_neg_integer()
        }

  @doc "Runs a Python module again in every worker; see `SnakeBridge.reload/2`."
  @spec reload(module() | String.t(), keyword()) :: {:ok, report()} | {:error, Error.t()}
  def reload(module, opts \\ []) do
    opts = Keyword.validate!(opts, pool: :all, deep: false, wait: @wait)

    unless is_integer(opts[:wait]) and opts[:wait] >= 0,
      do: raise(ArgumentError, "wait: is a number of milliseconds >= 0, not #{inspect(opts[:wait])}")

    unless RuntimeClient.current() == Pool do
      raise ArgumentError,
            "modules are reloaded in workers of the embedded pool; with #{inspect(RuntimeClient.current())} restart its workers"
    end

    payload = %{
      "session_id" => "snakebridge.reload",
      "module" => name(module),
      "deep" => opts[:deep],
      "wait_ms" => opts[:wait]
    }

    with {:ok, pools} <- pools(opts[:pool]),
         do: in_workers(Enum.flat_map(pools, &Pool.Placement.ready/1), payload, opts[:wait])
  end

  defp in_workers(workers, payload, wait) do
    workers
    |> Task.async_stream(&ask(&1, payload, wait),
      timeout: :infinity,
      max_concurrency: max(1, length(workers))
    )
    |> Enum.reduce({:ok, []}, fn
      {:ok, {:ok, answer}}, {:ok, answers} -> {:ok, [answer | answers]}
      {:ok, {:error, error}}, {:ok, _} -> {:error, error}
      _, failed -> failed
    end)
    |> case do
      {:ok, answers} -> {:ok, report(answers)}
      failed -> failed
    end
  end

  # Workers import and run what they are told at their own pace; a module that hangs is interrupted like any call.
  defp ask(worker, payload, wait) do
    timeout = wait + 60_000
    context = %{pool: worker.pool, timeout: timeout, deadline: Pool.deadline(timeout), opts: []}
    Exchange.call(worker, payload["session_id"], "snakebridge.reload", payload, context)
  end

  defp pools(:all), do: {:ok, Pool.names()}

  defp pools(name) do
    # One that has not started yet has loaded nothing.
    if name in Pool.names() or Keyword.has_key?(Application.get_env(:snakebridge, :pools, default: []), name),
      do: {:ok, [name]},
      else:
        {:error,
         Error.new(
           :unavailable,
           "there is no pool #{inspect(name)}; the pools that run are #{inspect(Pool.names())}"
         )}
  end

  defp report(answers) do
    %{
      workers: length(answers),
      reloaded: answers |> Enum.map(& &1["reloaded"]) |> Enum.max_by(&length/1, fn -> [] end),
      stale: answers |> Enum.flat_map(& &1["stale"]) |> Enum.map(&stale/1) |> Enum.sort(),
      running: answers |> Enum.map(& &1["running"]) |> Enum.sum()
    }
  end

  defp stale(%{"session_id" => session, "refs" => refs, "types" => types}),
    do: %{session_id: session, refs: refs, types: types}

  defp name(module) when is_binary(module), do: module

  defp name(module) when is_atom(module) do
    if Code.ensure_loaded?(module) and function_exported?(module, :__snakebridge_python_name__, 0) do
      to_string(module.__snakebridge_python_name__())
    else
      raise ArgumentError,
            "#{inspect(module)} is no SnakeBridge wrapper; name the Python module as a string, like \"my_models\""
    end
  end

  @doc "The directories that a pool's workers watch: its option `:watch` (paths, or true), else `config :snakebridge, reload: :watch`."
  @spec watched(keyword()) :: [String.t()]
  def watched(options) do
    case Keyword.get(options, :watch, Application.get_env(:snakebridge, :reload) == :watch) do
      false -> []
      nil -> []
      true -> options |> sources() |> Enum.filter(&File.dir?/1)
      directories -> directories |> List.wrap() |> Enum.map(&directory(&1, options))
    end
  end

  # Where a project keeps Python code of its own: priv/python, and what the pool puts on the path.
  defp sources(options) do
    path =
      for {name, value} <- SnakeBridge.Pool.Python.environment(options),
          to_string(name) == "PYTHONPATH",
          value,
          do: to_string(value)

    own = Enum.flat_map(path, &String.split(&1, ":", trim: true))
    Enum.uniq(for directory <- ["priv/python" | own], do: Path.expand(directory, root(options)))
  end

  defp directory(directory, options) do
    path = Path.expand(directory, root(options))

    unless File.dir?(path),
      do:
        raise(
          ArgumentError,
          "watch: names #{inspect(directory)}, and there is no directory #{path}; correct the option of the pool"
        )

    path
  end

  defp root(options), do: Keyword.get(options, :cd, File.cwd!())
end
