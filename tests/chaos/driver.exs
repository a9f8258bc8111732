# The Elixir side of a chaos run: processes that make calls through a real pool and write down what they asked and what they heard.
#
#     elixir -pa _build/test/lib/snakebridge/ebin tests/chaos/driver.exs
#
# CHAOS_DIR takes the history, CHAOS_SEED and CHAOS_LIFE (how often this BEAM was started) say which calls are made, CHAOS_PROCESSES by how many,
# CHAOS_PAUSE (ms) how fast. With CHAOS_STEADY half of them use a worker that nobody harms. Prints `ready`; on `settle`
# the processes end what they do and ask once more, without haste, for what they have asked before; then it prints `settled`. On `restart` and
# `drain` the pool does that, beside the calls. Ends with its input.

defmodule Chaos.History do
  @moduledoc "One file of JSON lines per process, each written at once."

  @spec open(String.t()) :: :file.fd()
  def open(process) do
    path = Path.join(System.fetch_env!("CHAOS_DIR"), "history-#{process}.jsonl")
    {:ok, file} = :file.open(path, [:append, :raw, :binary])
    file
  end

  @spec write(:file.fd(), keyword()) :: :ok
  def write(file, fields) do
    :ok = :file.write(file, [json(Map.new([{:at, System.os_time(:microsecond)} | fields])), ?\n])
  end

  defp json(map) when is_map(map),
    do: [
      ?{,
      map
      |> Enum.map(fn {name, value} -> [text(to_string(name)), ?:, json(value)] end)
      |> Enum.intersperse(?,),
      ?}
    ]

  defp json(list) when is_list(list), do: [?[, list |> Enum.map(&json/1) |> Enum.intersperse(?,), ?]]
  defp json(nil), do: "null"
  defp json(value) when is_boolean(value) or is_integer(value), do: to_string(value)
  defp json(value) when is_atom(value), do: text(Atom.to_string(value))
  defp json(value) when is_binary(value), do: text(value)
  defp json(other), do: text(inspect(other))

  # What JSON has an escape for is left out: these texts are for reading.
  defp text(text) do
    plain = for char <- String.to_charlist(text), char >= 32, into: "", do: <<char::utf8>>
    [?", plain |> String.replace("\\", "\\\\") |> String.replace("\"", "\\\""), ?"]
  end
end

defmodule Chaos.Caller do
  @moduledoc "A process that makes calls of every kind until it is told to settle."

  alias Chaos.History
  alias SnakeBridge.Error

  @kinds [plain: 4, idempotent: 3, keyed: 5, append: 4, pair: 1, stream: 2, ask: 2, share: 1]
  @deck for {kind, times} <- @kinds, _ <- 1..times, do: kind
  @longest_register 25
  @most_patience 20
  # Who is refused does not ask again at once.
  @pause_after_refusal 20
  @steady? System.get_env("CHAOS_STEADY") != nil
  @keys_asked_again 30

  def run(number) do
    life = System.fetch_env!("CHAOS_LIFE")
    :rand.seed(:exsss, {integer("CHAOS_SEED"), number, String.to_integer(life)})
    name = "#{life}.#{number}"

    loop(%{
      name: name,
      file: History.open(name),
      count: 0,
      register: nil,
      keys: %{},
      calm: false,
      pool: if(@steady? and rem(number, 2) == 0, do: :steady, else: :chaos),
      pause: integer("CHAOS_PAUSE")
    })
  end

  defp integer(name), do: name |> System.fetch_env!() |> String.to_integer()

  defp loop(state) do
    receive do
      {:settle, from} ->
        settle(%{state | calm: true, register: nil})
        send(from, {:settled, self()})
    after
      :rand.uniform(state.pause + 1) - 1 -> @deck |> Enum.random() |> act(state) |> loop()
    end
  end

  # All faults are over: whatever was asked is asked again, and must be answered; by whoever says when to come again, then.
  defp settle(state) do
    asked = for {key, ms} <- state.keys, do: &keyed(key, ms, &1)
    every = for kind <- [:plain, :idempotent, :append, :append, :stream, :ask, :share], do: &act(kind, &1)
    Enum.reduce(asked ++ every, state, &patiently(&1, &2, @most_patience))
  end

  defp patiently(act, state, times) do
    Process.delete(:retry_after_ms)
    state = act.(state)

    case Process.get(:retry_after_ms) do
      ms when is_integer(ms) and times > 0 ->
        Process.sleep(ms)
        patiently(act, state, times - 1)

      _ ->
        state
    end
  end

  # --- the kinds of calls ---

  defp act(kind, state) when kind in [:plain, :idempotent] do
    {op, state} = next(state)
    call(state, op, kind, op, "apply", [op, duration()], idempotent: kind == :idempotent)
    state
  end

  defp act(:keyed, state) do
    # Keys that several processes use, about at the same time, and old ones.
    back = if :rand.uniform(4) == 1, do: :rand.uniform(40), else: :rand.uniform(3)
    number = max(0, div(System.os_time(:millisecond), 250) - back)
    key = "key-#{number}"
    keyed(key, rem(number * 7, 30), state)
  end

  defp act(:append, state) do
    case register(state) do
      {%{register: {_, ref, _}} = state, true} ->
        append(state, fn state, op -> method(state, op, ref, :append) end)

      {state, false} ->
        state
    end
  end

  # Two at once on one object: the session takes them one by one.
  defp act(:pair, state) do
    case register(state) do
      {%{register: {target, ref, held}} = state, true} ->
        both =
          for side <- ["a", "b"] do
            name = "#{state.name}#{side}"
            {op, _} = next(%{state | name: name})
            Task.async(fn -> method(%{state | name: name, file: History.open(name)}, op, ref, :append) end)
          end

        answers = Task.await_many(both, :infinity)
        lost? = Enum.any?(answers, &match?({:error, _}, &1))

        %{
          state
          | count: state.count + 1,
            register: if(lost? or held > @longest_register, do: nil, else: {target, ref, held + 2})
        }

      {state, false} ->
        state
    end
  end

  defp act(:stream, state) do
    {op, state} = next(state)
    count = :rand.uniform(40)
    wanted = if :rand.uniform(3) == 1, do: :rand.uniform(count), else: count
    History.write(state.file, invoked(state, op, :stream, op) ++ [wanted: wanted, halted: wanted < count])
    me = self()

    try do
      SnakeBridge.stream("chaos_effects", "items", [op, count, :rand.uniform(3) - 1], options(state))
      |> Stream.each(&send(me, {:item, op, &1}))
      |> Enum.take(wanted)

      History.write(state.file, type: :ok, op: op, value: items(op))
    rescue
      error in Error -> History.write(state.file, [type: :error, op: op, value: items(op)] ++ told(error))
    end

    state
  end

  defp act(:ask, state) do
    {op, state} = next(state)
    call(state, op, :ask, op, "ask", [op, & &1])
    state
  end

  # Bytes that lie in shared memory, there and back.
  defp act(:share, state) do
    {op, state} = next(state)
    bytes = String.duplicate(op, 50_000)

    told(state, op, :share, op, fn options ->
      with {:ok, shared} <- SnakeBridge.share(bytes) do
        answer = SnakeBridge.call("chaos_effects", "echo", [op, shared], options)
        SnakeBridge.ZeroCopyRef.release(shared)

        with {:ok, [whose, back]} <- answer, {:ok, copy} <- SnakeBridge.unshare(back) do
          {:ok, [whose, if(copy.data == bytes, do: "same", else: "other")]}
        end
      end
    end)

    state
  end

  defp keyed(key, ms, state) do
    {op, state} = next(state)
    call(state, op, :keyed, key, "apply", [key, ms], idempotency_key: key)

    %{
      state
      | keys: state.keys |> Map.put(key, ms) |> Enum.sort() |> Enum.take(-@keys_asked_again) |> Map.new()
    }
  end

  # --- objects in sessions ---

  defp register(%{register: {_, _, _}} = state), do: {state, true}

  defp register(state) do
    {op, state} = next(state)

    case call(state, op, :make, op, "Register", [op]) do
      {:ok, ref} -> {%{state | register: {op, ref, 0}}, true}
      {:error, _} -> {state, false}
    end
  end

  defp append(%{register: {target, ref, held}} = state, call) do
    {op, state} = next(state)

    case call.(state, op) do
      {:ok, _} when held < @longest_register -> %{state | register: {target, ref, held + 1}}
      _ -> %{state | register: nil}
    end
  end

  # --- one call ---

  defp call(state, op, kind, target, function, args, opts \\ []),
    do: told(state, op, kind, target, &SnakeBridge.call("chaos_effects", function, args, &1 ++ opts))

  defp method(%{register: {target, _, _}} = state, op, ref, name),
    do: told(state, op, :append, target, &SnakeBridge.call(ref, name, [op], &1))

  defp told(state, op, kind, target, make) do
    me = self()
    History.write(state.file, invoked(state, op, kind, target))
    answer = make.(options(state, report: &send(me, {:report, op, &1})))

    report =
      receive do
        {:report, ^op, report} -> report
      after
        0 -> %{}
      end

    case answer do
      {:ok, value} ->
        value = if kind == :make, do: nil, else: value
        History.write(state.file, [type: :ok, op: op, value: value] ++ Map.to_list(report))

      {:error, error} ->
        History.write(state.file, [type: :error, op: op] ++ told(error))
        unless state.calm, do: Process.sleep(@pause_after_refusal)
    end

    answer
  end

  defp invoked(state, op, kind, target),
    do: [type: :invoke, process: state.name, op: op, kind: kind, target: target, calm: state.calm]

  defp told(error) do
    Process.put(:retry_after_ms, error.retry_after_ms)

    [
      retry_after_ms: error.retry_after_ms,
      category: error.category,
      outcome: error.outcome,
      error_type: error.python_type,
      message: String.slice(error.message, 0, 300)
    ]
  end

  defp options(state, runtime \\ []) do
    timeout = if state.calm, do: 30_000, else: 500 + :rand.uniform(2_500)
    [pool: state.pool, __runtime__: [timeout: timeout] ++ runtime]
  end

  defp next(state), do: {"#{state.name}-#{state.count}", %{state | count: state.count + 1}}

  defp duration, do: if(:rand.uniform(3) == 1, do: :rand.uniform(30), else: 0)

  defp items(op) do
    receive do
      {:item, ^op, item} -> [item | items(op)]
    after
      0 -> []
    end
  end
end

root = Path.expand("../..", __DIR__)
{:ok, _} = Application.ensure_all_started(:logger)
Logger.configure(level: :warning)
Application.put_env(:snakebridge, :pools, [])
{:ok, _} = Application.ensure_all_started(:snakebridge)

pool = fn name, options ->
  {:ok, _} =
    SnakeBridge.Pool.start_link(
      [
        name: name,
        journal: System.fetch_env!("CHAOS_JOURNAL"),
        max_connections: 8
      ] ++ options
    )

  {:ok, _} = SnakeBridge.call("math", "sqrt", [16], pool: name, __runtime__: [timeout: 60_000])
end

# Breakers open when so many workers die. They are tried, too, but with most seeds the calls are to go on.
breaker = if rem(String.to_integer(System.fetch_env!("CHAOS_SEED")), 3) == 0, do: [], else: [breaker: false]
path = {"PYTHONPATH", Path.join(__DIR__, "python")}
python = Path.join(root, ".venv/bin/python")
behind_proxy = System.fetch_env!("CHAOS_PYTHON")

pool.(
  :chaos,
  breaker ++ [python: behind_proxy] ++ [size: 2, kill_after: 1_500, env: [path, {"CHAOS_STEADY", nil}]]
)

if System.get_env("CHAOS_STEADY"),
  do: pool.(:steady, python: python, size: 1, env: [path, {"CHAOS_POINTS", ""}])

callers =
  for number <- 1..String.to_integer(System.fetch_env!("CHAOS_PROCESSES")),
      do: spawn_monitor(fn -> Chaos.Caller.run(number) end)

IO.puts("ready")

settle = fn ->
  for {pid, _} <- callers, do: send(pid, {:settle, self()})

  for {pid, monitor} <- callers do
    receive do
      {:settled, ^pid} -> :ok
      {:DOWN, ^monitor, _, _, reason} -> IO.puts("failed: a caller ended: #{inspect(reason)}")
    end
  end

  IO.puts("settled")
end

# What a pool does to itself while calls go on. It may fail, as its workers may.
life = fn name, steps ->
  spawn(fn ->
    for {function, args} <- steps, do: apply(SnakeBridge.Pool, function, args)
    IO.puts(name)
  end)
end

IO.stream(:stdio, :line)
|> Enum.each(fn
  "settle\n" -> settle.()
  "restart\n" -> life.("restarted", restart: [:chaos, [max_wait: 1_000]])
  "drain\n" -> life.("drained", drain: [:chaos, 500], resume: [:chaos])
  "stop\n" -> System.stop()
end)

System.stop()
