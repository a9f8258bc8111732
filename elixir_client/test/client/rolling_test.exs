defmodule SnakeBridge.RollingTest do
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually
  import SnakeBridge.Test.OwnPool
  import SnakeBridge.Test.Processes

  alias SnakeBridge.{Error, Pool}

  setup context do
    {python, broken} = if context[:broken], do: breakable(), else: {Path.expand(".venv/bin/python"), nil}
    {:ok, pool: start_pool("rolling", [python: python] ++ Map.get(context, :options, [])), broken: broken}
  end

  # A Python that does not start while a file is there.
  defp breakable do
    broken = Path.join(System.tmp_dir!(), "broken-#{System.unique_integer([:positive])}-#{System.pid()}")
    script = broken <> ".sh"

    File.write!(
      script,
      "#!/bin/sh\n[ -e #{broken} ] && exit 3\nexec #{Path.expand(".venv/bin/python")} \"$@\"\n"
    )

    File.chmod!(script, 0o755)
    on_exit(fn -> for path <- [broken, script], do: File.rm(path) end)
    {script, broken}
  end

  defp sample(pool, function, arguments, opts \\ []),
    do: SnakeBridge.call("sample", function, arguments, [pool: pool] ++ opts)

  defp pid_of(pool, opts \\ []), do: SnakeBridge.call!("os", "getpid", [], [pool: pool] ++ opts)

  defp alone?(pool), do: Enum.all?(Pool.info(pool), &(&1.status == :ready and &1.leaving == []))

  # Callers of every kind, none of whose calls may be made twice.
  defp load(pool, stop) do
    long = fn n -> {:ok, ^n} = sample(pool, "identity", [n]) end
    short = fn n -> Task.await(Task.async(fn -> {:ok, ^n} = sample(pool, "identity", [n]) end), 60_000) end
    counted = fn _ -> {:ok, _} = sample(pool, "record", [1]) end
    # More than Python sends ahead: it takes its session's turn more than once.
    stream = fn _ -> 700 = SnakeBridge.stream("sample", "gen", [700], pool: pool) |> Enum.count() end

    for kind <- [long, short, counted, stream] do
      Task.async(fn ->
        Stream.iterate(1, &(&1 + 1))
        |> Enum.reduce_while(0, fn n, _ ->
          kind.(rem(n, 50) + 1)
          # A few at least, however soon the processes are replaced.
          if :atomics.get(stop, 1) == 1 and n > 5, do: {:halt, n}, else: {:cont, n}
        end)
      end)
    end
  end

  @tag options: [size: 2]
  test "no call fails while all processes are replaced under load", %{pool: pool} do
    {:ok, _} = sample(pool, "identity", [0])
    assert eventually(fn -> Enum.all?(Pool.info(pool), &(&1.status == :ready)) end)
    before = for %{os_pid: pid} <- Pool.info(pool), do: pid
    stop = :atomics.new(1, [])
    callers = load(pool, stop)
    assert :ok = Pool.restart(pool)
    :atomics.put(stop, 1, 1)
    Task.await_many(callers, 60_000)
    assert eventually(fn -> alone?(pool) end)
    assert [%{generation: 2}, %{generation: 2}] = Pool.info(pool)
    assert eventually(fn -> not Enum.any?(before, &running?/1) end)
  end

  test "a session that holds something keeps its process until it is released", %{pool: pool} do
    {:ok, session} = SnakeBridge.create_session()
    {:ok, acc} = SnakeBridge.in_session(session, fn -> sample(pool, "Acc", [1]) end)
    old = pid_of(pool)
    me = self()

    nested =
      Task.async(fn ->
        sample(pool, "apply", [
          fn ->
            send(me, {:in, self()})
            receive(do: (:go -> pid_of(pool)))
          end
        ])
      end)

    assert_receive {:in, calling}
    assert :ok = Pool.restart(pool)
    new = pid_of(pool)
    assert new != old
    # What the old process still has to do goes on there.
    assert {:ok, 3} = SnakeBridge.call_method(acc, :add, [2])
    send(calling, :go)
    assert {:ok, ^old} = Task.await(nested, 60_000)
    assert [%{generation: 2, leaving: [%{generation: 1, os_pid: ^old}]}] = Pool.info(pool)
    assert :ok = SnakeBridge.close_session(session)
    assert eventually(fn -> alone?(pool) and not running?(old) end)
    assert pid_of(pool) == new
  end

  test "it waits for sessions no longer than it is told, and they say why they are lost", %{pool: pool} do
    {:ok, acc} = sample(pool, "Acc", [1])
    old = pid_of(pool)
    assert :ok = Pool.restart(pool, max_wait: 2_000)
    assert {:ok, 2} = SnakeBridge.call_method(acc, :add, [1])
    assert eventually(fn -> not running?(old) end)

    assert {:error, %Error{category: :session_lost, message: message}} =
             SnakeBridge.call_method(acc, :add, [1])

    assert message =~ "its worker was restarted"

    {:ok, acc} = sample(pool, "Acc", [1])
    assert :ok = Pool.restart(pool, sessions: :end)
    assert {:error, %Error{category: :session_lost}} = SnakeBridge.call_method(acc, :add, [1])
    assert {:ok, 1} = sample(pool, "identity", [1])
  end

  test "supervised sessions begin again on the new process", %{pool: pool} do
    init = fn -> sample(pool, "Acc", [1]) end
    session = start_supervised!({SnakeBridge.Session, init: init, pool: pool})

    where = fn ->
      SnakeBridge.Session.call(session, fn acc -> {:ok, {pid_of(pool), SnakeBridge.attr!(acc, :value)}} end)
    end

    {:ok, {old, 1}} = where.()
    assert :ok = Pool.restart(pool)
    assert {:ok, {new, 1}} = where.()
    assert new != old
    assert eventually(fn -> not running?(old) end)
  end

  @tag :broken
  test "a process that cannot start replaces nothing", %{pool: pool, broken: broken} do
    {:ok, acc} = sample(pool, "Acc", [1])
    File.write!(broken, "")
    assert {:error, %Error{category: :worker_start, message: message}} = Pool.restart(pool)
    assert message =~ "the old process goes on"
    assert {:ok, 2} = SnakeBridge.call_method(acc, :add, [1])
    File.rm!(broken)
    assert :ok = Pool.restart(pool, sessions: :end)
    assert {:ok, 1} = sample(pool, "identity", [1])
    assert_raise ArgumentError, ~r/sessions: :wait/, fn -> Pool.restart(pool, sessions: :later) end
  end
end
