defmodule SnakeBridge.JournalTest do
  # Calls with an idempotency_key: run once, answered again; by whichever worker, and by another pool with the same file.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually
  import SnakeBridge.Test.Processes

  alias SnakeBridge.{Error, Pool, Telemetry}

  @moduletag capture_log: true

  setup context do
    directory = Path.join(System.tmp_dir!(), "journal-#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    path = Path.join(directory, "calls.journal")
    pool = start(journal: Map.get(context, :journal, path))
    {:ok, pool: pool, runs: Path.join(directory, "runs"), path: path}
  end

  defp start(options) do
    name = :"journal_#{System.unique_integer([:positive])}"
    env = [{"PYTHONPATH", Path.expand("tests/python")}]
    options = Keyword.merge([name: name, size: 2, python: Path.expand(".venv/bin/python"), env: env], options)
    start_supervised!({Pool, options}, id: name)
    name
  end

  # The answer, and how it came about.
  defp ask(pool, function, args, opts \\ []) do
    me = self()
    runtime = [report: &send(me, {:report, &1})]
    answer = SnakeBridge.call("counted", function, args, [pool: pool, __runtime__: runtime] ++ opts)

    receive do
      {:report, report} -> {answer, report}
    after
      0 -> {answer, nil}
    end
  end

  defp count(runs),
    do: if(File.exists?(runs), do: runs |> File.read!() |> String.split() |> length(), else: 0)

  defp elsewhere(fun), do: Task.async(fun) |> Task.await(60_000)

  test "the same key gives the same answer, from any process and any worker", %{pool: pool, runs: runs} do
    ask = fn -> ask(pool, "run", [runs, %{"deep" => [1.5, {:a, "b"}]}], idempotency_key: "job 1") end
    {first, report} = ask.()
    assert {:ok, {1, %{"deep" => [1.5, {:a, "b"}]}}} = first
    assert report == %{attempts: 1, replayed: false}
    for _ <- 1..4, do: assert(elsewhere(ask) == {first, %{attempts: 1, replayed: true}})
    assert count(runs) == 1
  end

  test "another key, or none, is another call", %{pool: pool, runs: runs} do
    assert {{:ok, 1}, _} = ask(pool, "run", [runs], idempotency_key: "1")
    assert {{:ok, 2}, _} = ask(pool, "run", [runs], idempotency_key: "2")
    assert {{:ok, 3}, %{attempts: 1, replayed: false}} = ask(pool, "run", [runs], idempotent: true)
    assert {{:ok, 4}, %{attempts: 1, replayed: false}} = ask(pool, "run", [runs])
  end

  test "a key with other arguments is a conflict", %{pool: pool, runs: runs} do
    assert {{:ok, {1, 7}}, _} = ask(pool, "run", [runs, 7], idempotency_key: "k")

    for args <- [[runs, 8], [runs]] do
      assert {{:error, %Error{category: :idempotency_conflict, message: message}}, nil} =
               ask(pool, "run", args, idempotency_key: "k")

      assert message =~ "the idempotency key 'k' belongs to another request, made earlier"
    end

    # Map keys in another order, another session and another timeout are the same call.
    wide = Map.new(1..100, &{&1, &1})
    assert {{:ok, {2, ^wide}}, _} = ask(pool, "run", [runs, wide], idempotency_key: "wide")

    assert {{:ok, {2, ^wide}}, %{replayed: true}} =
             elsewhere(fn -> ask(pool, "run", [runs, Map.new(100..1, &{&1, &1})], idempotency_key: "wide") end)
  end

  test "of calls at once one runs and all get its answer", %{pool: pool, runs: runs} do
    go = runs <> ".go"

    tasks =
      for _ <- 1..8,
          do: Task.async(fn -> ask(pool, "until", [runs, go], idempotency_key: "k") end)

    assert eventually(fn -> count(runs) == 1 end)
    File.touch!(go)
    answers = Task.await_many(tasks, 60_000)
    assert Enum.map(answers, &elem(&1, 0)) == List.duplicate({:ok, 1}, 8)
    assert Enum.count(answers, &(elem(&1, 1).replayed == false)) == 1
    assert count(runs) == 1
  end

  test "a call whose worker dies is run again, and says so", %{pool: pool, runs: runs} do
    assert {{:ok, 2}, %{attempts: 2, replayed: false}} = ask(pool, "die_first", [runs], idempotency_key: "k")
    assert {{:ok, 2}, %{attempts: 2, replayed: true}} = ask(pool, "die_first", [runs], idempotency_key: "k")
    File.rm!(runs)
    assert {{:ok, 2}, %{attempts: 2, replayed: false}} = ask(pool, "die_first", [runs], idempotent: true)
  end

  test "another pool with the same file answers, too, when the first is gone", %{
    pool: pool,
    runs: runs,
    path: path
  } do
    assert {{:ok, 1}, _} = ask(pool, "run", [runs], idempotency_key: "k")
    for %{os_pid: pid} <- Pool.info(pool), is_integer(pid), do: kill(pid)
    stop_supervised!(pool)
    later = start(journal: [path: path, durability: :power])
    assert {{:ok, 1}, %{attempts: 1, replayed: true}} = ask(later, "run", [runs], idempotency_key: "k")
    assert {{:ok, 2}, %{attempts: 1, replayed: false}} = ask(later, "run", [runs], idempotency_key: "new")
  end

  @tag journal: true
  test "without a path the journal lives as long as the application", %{pool: pool, runs: runs} do
    assert {{:ok, 1}, _} = ask(pool, "run", [runs], idempotency_key: "k")
    for %{os_pid: pid} <- Pool.info(pool), is_integer(pid), do: kill(pid)

    assert eventually(fn ->
             match?({{:ok, 1}, %{replayed: true}}, ask(pool, "run", [runs], idempotency_key: "k"))
           end)

    assert count(runs) == 1
  end

  test "refs are given again while their objects live", %{pool: pool, runs: runs} do
    {{:ok, thing}, _} = ask(pool, "make", [runs], idempotency_key: "k")
    assert {{:ok, ^thing}, %{replayed: true}} = ask(pool, "make", [runs], idempotency_key: "k")
    {index, _} = Pool.Placement.at(pool, SnakeBridge.current_session())
    kill(Enum.find(Pool.info(pool), &(&1.index == index)).os_pid)

    # Made anew, because it lived in the worker that is gone.
    assert eventually(fn ->
             match?(
               {{:ok, _}, %{attempts: 2, replayed: false}},
               ask(pool, "make", [runs], idempotency_key: "k")
             )
           end)

    assert {{:ok, again}, %{replayed: true}} = ask(pool, "make", [runs], idempotency_key: "k")
    assert {:ok, "thing"} = SnakeBridge.call(again, :name, [])
  end

  test "telemetry tells how the answer came about", %{pool: pool, runs: runs} do
    me = self()
    id = make_ref()
    handler = fn _, _, metadata, _ -> send(me, {:stop, metadata}) end
    Telemetry.attach(id, [:snakebridge, :call, :stop], handler, nil)
    on_exit(fn -> Telemetry.detach(id) end)
    for _ <- 1..2, do: ask(pool, "run", [runs], idempotency_key: "k")
    assert_received {:stop, %{attempts: 1, replayed: false, function: "run"}}
    assert_received {:stop, %{attempts: 1, replayed: true}}
    ask(pool, "run", [runs])
    assert_received {:stop, metadata}
    refute is_map_key(metadata, :replayed)
  end

  test "keys that are none are refused with the rule", %{pool: pool, runs: runs} do
    for key <- ["", String.duplicate("x", 256), 7, <<255>>] do
      assert_raise ArgumentError, ~r/idempotency_key is .*; it must be a text of 1 to 255 characters/s, fn ->
        ask(pool, "run", [runs], idempotency_key: key)
      end
    end

    assert_raise ArgumentError, ~r/a stream has no idempotency_key/, fn ->
      SnakeBridge.stream("builtins", "range", [3], pool: pool, idempotency_key: "k") |> Enum.to_list()
    end

    for wrong <- [7, [place: "x"], [durability: :never]] do
      assert_raise ArgumentError, ~r/journal: is .*; it must be true, false, a path/, fn ->
        Pool.Journal.arguments(journal: wrong)
      end
    end
  end

  @tag journal: false
  test "a pool without a journal refuses keys and still repeats what is idempotent", %{pool: pool, runs: runs} do
    assert {{:error, %Error{category: :invalid_request, message: message}}, nil} =
             ask(pool, "run", [runs], idempotency_key: "k")

    assert message =~ "has no journal; remove journal: false"
    assert {{:ok, 2}, %{attempts: 2, replayed: false}} = ask(pool, "die_first", [runs], idempotent: true)
  end
end
