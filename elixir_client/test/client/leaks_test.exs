defmodule SnakeBridge.LeaksTest do
  # Whoever is killed, and whatever fails, leaves no connection taken and no function registered.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  @moduletag capture_log: true

  alias SnakeBridge.{CallbackRegistry, Error, Pool}

  defmodule Unused do
    # A client that no call reaches.
    @behaviour SnakeBridge.RuntimeClient

    @impl true
    def execute(_, _, _), do: {:error, :unused}

    @impl true
    def execute_stream(_, _, _, _), do: {:error, :unused}
  end

  setup context do
    pool = :"leaks_#{System.unique_integer([:positive])}"
    env = [{"PYTHONPATH", Path.expand("tests/python")}]
    options = [name: pool, size: 1, python: Path.expand(".venv/bin/python"), env: env]
    start_supervised!({Pool, Keyword.merge(options, Map.get(context, :options, []))})
    {:ok, pool: pool}
  end

  defp sample(pool, function, args, options \\ []),
    do: SnakeBridge.call("sample", function, args, [pool: pool] ++ options)

  # --- connections ---

  # All connections at the same time: each call waits in its callback until all are there.
  defp all_at_once(pool, count) do
    me = self()

    wait = fn ->
      send(me, {:in, self()})
      receive do: (:go -> 1)
    end

    tasks = for _ <- 1..count, do: Task.async(fn -> sample(pool, "apply", [wait]) end)

    inside =
      for _ <- 1..count do
        assert_receive {:in, pid}
        pid
      end

    for pid <- inside, do: send(pid, :go)
    assert Enum.all?(Task.await_many(tasks, 60_000), &(&1 == {:ok, 1}))
  end

  # Kills each of its callers at a moment of its own: while it takes a connection, opens one, waits for one, calls, or gives it back.
  defp storm(pool, until, work) do
    callers = for _ <- 1..12, do: spawn(fn -> forever(fn -> work.(pool) end) end)

    for pid <- callers do
      spin(:rand.uniform(400))
      Process.exit(pid, :kill)
    end

    if System.monotonic_time(:millisecond) < until, do: storm(pool, until, work)
  end

  defp forever(work) do
    work.()
    forever(work)
  end

  # Microseconds; a sleep would always end at the same moment of the caller's work.
  defp spin(us) do
    until = System.monotonic_time(:microsecond) + us
    Stream.repeatedly(fn -> System.monotonic_time(:microsecond) end) |> Enum.find(&(&1 >= until))
  end

  @tag options: [max_connections: 3, kill_after: 60_000]
  test "callers that are killed at any moment leave every connection free", %{pool: pool} do
    assert {:ok, 0} = sample(pool, "identity", [0])

    for work <- [
          &sample(&1, "identity", [1]),
          &(SnakeBridge.stream("sample", "gen", [3], pool: &1) |> Enum.to_list())
        ] do
      storm(pool, System.monotonic_time(:millisecond) + 2_000, work)
      all_at_once(pool, 3)
    end
  end

  @tag options: [max_connections: 1]
  test "a type of the user that throws while an answer is read costs no connection", %{pool: pool} do
    SnakeBridge.Types.register("leaks.ball", fn _ -> throw(:ball) end)
    ball = %SnakeBridge.Extension{tag: "leaks.ball", value: %{}}

    for _ <- 1..2 do
      assert {:error, %Error{category: :decode_error}} = sample(pool, "identity", [ball])

      assert catch_throw(
               SnakeBridge.stream("sample", "gen_callback", [& &1, 1], pool: pool)
               |> Enum.each(&throw(&1))
             ) == 0

      items = SnakeBridge.stream("builtins", "list", [[ball]], pool: pool)
      assert_raise Error, ~r/throw.*:ball/, fn -> Enum.to_list(items) end
      all_at_once(pool, 1)
    end
  end

  # --- functions ---

  defp registered(function),
    do: Enum.count(:ets.tab2list(CallbackRegistry), &(elem(&1, 1) == function))

  defp too_deep, do: Enum.reduce(1..5_000, [], fn _, inner -> [inner] end)
  defp too_long, do: List.duplicate(SnakeBridge.bytes(:binary.copy("x", 27_000_000)), 10)

  test "functions of a message that cannot be encoded or is too long are forgotten", %{pool: pool} do
    function = fn x -> x end
    assert {:ok, 0} = sample(pool, "identity", [0])

    for value <- [too_deep(), too_long()] do
      assert {:error, %Error{category: :limit_exceeded}} = sample(pool, "identity", [[function, value]])

      assert {:error, %Error{category: :limit_exceeded}} =
               Pool.execute_stream("snakebridge.stream", stream(function, value), & &1, pool: pool)

      nested = fn ->
        {:error, %Error{category: category}} = sample(pool, "identity", [[function, value]])
        category
      end

      assert {:ok, :limit_exceeded} = sample(pool, "apply", [nested])
    end

    assert registered(function) == 0
    assert {:ok, 0} = sample(pool, "identity", [0])
  end

  defp stream(function, value) do
    "dynamic"
    |> SnakeBridge.Payload.call(SnakeBridge.current_session(), %{
      "module_path" => "sample",
      "function" => "gen",
      "args" => [[function, value]],
      "kwargs" => %{}
    })
  end

  @tag options: [max_connections: 1]
  test "functions of a call that got no connection are forgotten", %{pool: pool} do
    function = fn x -> x end

    waiting = fn ->
      me = self()

      # The caller lives on: its end would forget them, too.
      spawn(fn ->
        send(me, {sample(pool, "identity", [function], __runtime__: [timeout: 100]), registered(function)})
        receive do: (:never -> :ok)
      end)

      receive do: ({{:error, %Error{category: :timeout}}, count} -> count)
    end

    assert {:ok, 0} = sample(pool, "apply", [waiting])
  end

  test "a callback's answer that cannot be sent is an error in Python and leaves no function", %{pool: pool} do
    function = fn x -> x end

    for value <- [too_deep(), too_long()] do
      assert {:error, %Error{category: :callback_error, message: message}} =
               sample(pool, "apply", [fn -> [function, value] end])

      assert message =~ "cannot be sent"
      # On the control connection; the thread ends with the error, and the call has no result.
      assert {:error, %Error{python_type: "IndexError"}} =
               sample(pool, "apply_in_thread", [fn _ -> [function, value] end, 1])
    end

    assert registered(function) == 0
  end

  test "a function that a callback gives to a thread of Python lives as long as the one that gave it", %{
    pool: pool
  } do
    function = fn x -> x end
    for _ <- 1..20, do: assert({:ok, ^function} = sample(pool, "apply_in_thread", [fn _ -> function end, 1]))
  end

  test "with a client of the project's own, too, functions of what cannot be encoded are forgotten" do
    function = fn x -> x end

    SnakeBridge.RuntimeClient.with_client(Unused, fn ->
      assert {:error, %Error{category: :limit_exceeded}} =
               SnakeBridge.call("sample", "apply", [function], x: too_deep())
    end)

    assert registered(function) == 0
  end

  test "functions that a worker held are forgotten when it dies, and only those", %{pool: pool} do
    other = :"#{pool}_other"
    env = [{"PYTHONPATH", Path.expand("tests/python")}]

    start_supervised!({Pool, name: other, size: 1, python: Path.expand(".venv/bin/python"), env: env},
      id: other
    )

    function = fn x -> x end

    for pool <- [pool, other], do: assert({:ok, _} = sample(pool, "keep", [function]))
    assert registered(function) == 2

    die = fn _ -> SnakeBridge.call("os", "_exit", [3], pool: pool) end

    assert {:error, %Error{category: :worker_crash}} = sample(pool, "apply", [die, function])
    assert eventually(fn -> registered(function) == 1 and registered(die) == 0 end)
    assert {:ok, 7} = sample(other, "call_kept", [7])

    stop_supervised!(other)
    assert eventually(fn -> registered(function) == 0 end)
  end
end
