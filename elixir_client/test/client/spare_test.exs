defmodule SnakeBridge.SpareTest do
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually
  import SnakeBridge.Test.OwnPool
  import SnakeBridge.Test.Processes

  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.Spares

  setup context do
    {:ok, pool: start_pool("spare", Map.get(context, :options, []))}
  end

  defp sample(pool, function, arguments), do: SnakeBridge.call("sample", function, arguments, pool: pool)
  defp pid_of(pool), do: SnakeBridge.call!("os", "getpid", [], pool: pool, idempotent: true)

  @tag options: [spares: 1, preload: ["sample", "xml.dom.minidom"], policy: [allow: ["sys.modules"]]]
  test "a spare takes the place of a worker that dies, also of one that dies again and again", %{pool: pool} do
    first = pid_of(pool)
    {:ok, acc} = sample(pool, "Acc", [1])

    pids =
      for _ <- 1..3, reduce: [first] do
        [pid | _] = pids ->
          assert eventually(fn -> Spares.ready(pool) == 1 end)
          kill(pid)
          # The caller may be faster than the news of the death.
          assert eventually(fn -> match?({:ok, _}, sample(pool, "identity", [1])) end)
          [pid_of(pool) | pids]
      end

    assert pids == Enum.uniq(pids)
    assert {:error, %Error{category: :session_lost}} = SnakeBridge.call_method(acc, :add, [1])

    assert {:ok, %SnakeBridge.Ref{}} = SnakeBridge.call("sys", "modules.get", ["xml.dom.minidom"], pool: pool)
  end

  @tag options: [spares: 1]
  test "a spare that dies is followed by the next, and a restart uses none of before", %{pool: pool} do
    # A worker that is about to take its seat looks like a spare for a moment.
    assert eventually(fn -> Spares.ready(pool) == 1 and match?([_], spare_pids(pool)) end)
    [old] = spare_pids(pool)
    kill(old)
    assert eventually(fn -> Spares.ready(pool) == 1 and match?([new] when new != old, spare_pids(pool)) end)
    before = spare_pids(pool)
    assert :ok = Pool.restart(pool)
    assert pid_of(pool) not in before
    assert eventually(fn -> not Enum.any?(before, &running?/1) end)
  end

  defp spare_pids(pool) do
    for {_, worker, _, _} <- DynamicSupervisor.which_children(Pool.Worker.supervisor(pool)),
        %{status: :ready, os_pid: pid} <- [state(worker)],
        do: pid
  end

  defp state(worker) do
    :sys.get_state(worker)
  catch
    # It has ended since it was listed.
    :exit, _ -> nil
  end

  @tag options: [preload: ["no_such_module"]]
  test "a module that cannot be imported beforehand is named", %{pool: pool} do
    assert {:error, %Error{category: :worker_start, message: message}} = sample(pool, "identity", [1])
    assert message =~ "no_such_module"
  end

  test "wrong options are refused with their rule" do
    for {option, rule} <- [
          {[spares: -1], ~r/spares: is -1; it must be/},
          {[preload: "numpy"], ~r/preload: .* list of the names/},
          {[recycle: [after: 0]], ~r/recycle: is .*after: ms/},
          {[overflow: :drop], ~r/overflow: is :drop; .*:drop_oldest/},
          {[max_queue: 0], ~r/max_queue: is 0; it must be a positive/}
        ] do
      assert_raise ArgumentError, rule, fn -> Pool.init([name: :wrong, size: 1] ++ option) end
    end
  end
end
