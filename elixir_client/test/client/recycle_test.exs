defmodule SnakeBridge.RecycleTest do
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually
  import SnakeBridge.Test.OwnPool
  import SnakeBridge.Test.Processes

  alias SnakeBridge.{Pool, Telemetry}
  alias SnakeBridge.Pool.Recycling

  setup context do
    name = start_pool("recycle", context.options)
    me = self()

    Telemetry.attach_many(
      name,
      [[:snakebridge, :worker, :replaced]],
      fn _, _, told, _ -> send(me, {:replaced, told}) end,
      nil
    )

    on_exit(fn -> Telemetry.detach(name) end)
    {:ok, pool: name}
  end

  defp sample(pool, function, arguments), do: SnakeBridge.call("sample", function, arguments, pool: pool)

  @tag options: [recycle: [calls: 200], spares: 1]
  test "a worker is replaced after so many calls, and none of them fails", %{pool: pool} do
    {:ok, old} = SnakeBridge.call("os", "getpid", [], pool: pool)
    callers = for _ <- 1..2, do: Task.async(fn -> until_replaced(pool, 0) end)
    assert Enum.sum(Task.await_many(callers, 60_000)) >= 150
    assert_receive {:replaced, %{pool: ^pool, worker: 1, generation: 2, why: "it has served" <> _}}
    assert eventually(fn -> not running?(old) end)
  end

  defp until_replaced(pool, n) do
    {:ok, ^n} = sample(pool, "identity", [n])
    if match?([%{generation: 1}], Pool.info(pool)), do: until_replaced(pool, n + 1), else: n
  end

  @tag options: [recycle: [rss: 300 * 1024 * 1024]]
  test "a worker is replaced when it takes too much memory, and waits for its sessions", %{pool: pool} do
    assert {:ok, ref} = sample(pool, "hoard", [300 * 1024 * 1024])
    assert_receive {:replaced, %{why: why}}
    assert why =~ ~r/it takes 3\d\d MB of memory/
    assert [%{generation: 2, leaving: [%{generation: 1, rss: bytes}]}] = Pool.info(pool)
    assert bytes > 300 * 1024 * 1024
    SnakeBridge.release_ref(ref)
    assert eventually(fn -> match?([%{generation: 2, leaving: []}], Pool.info(pool)) end)
  end

  @tag options: [recycle: [after: 600]]
  test "a worker is replaced when it is old; limits are spread", %{pool: pool} do
    {:ok, 1} = sample(pool, "identity", [1])
    assert_receive {:replaced, %{why: "it is " <> _}}
    assert {:ok, 1} = sample(pool, "identity", [1])

    limits = for _ <- 1..100, do: Recycling.limits(calls: 1_000, after: 10_000).calls
    assert Enum.all?(limits, &(&1 in 800..1_000))
    assert length(Enum.uniq(limits)) > 20
  end
end
