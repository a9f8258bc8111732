defmodule SnakeBridge.AdmissionTest do
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually
  import SnakeBridge.Test.OwnPool

  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.{Admission, Queue}

  setup context do
    case context[:options] do
      nil -> :ok
      options -> {:ok, pool: start_pool("admission", options)}
    end
  end

  defp sample(pool, function, arguments, opts \\ []),
    do: SnakeBridge.call("sample", function, arguments, [pool: pool] ++ opts)

  # What has begun since the last look, in this order.
  defp begun(pool) do
    {:ok, log} = sample(pool, "take_log", [])
    for {"start", x} <- log, do: x
  end

  # A call that holds the only connection until it is told to go on.
  defp occupied(pool) do
    me = self()

    task =
      Task.async(fn ->
        sample(pool, "apply", [
          fn ->
            send(me, {:in, self()})
            receive(do: (:go -> :done))
          end
        ])
      end)

    assert_receive {:in, pid}
    {task, pid}
  end

  defp waiting(pool, n, seconds \\ 0.0) do
    for i <- 1..n do
      task = Task.async(fn -> sample(pool, "record", [i, seconds]) end)
      assert eventually(fn -> match?([%{queue: ^i}], Pool.info(pool)) end)
      task
    end
  end

  @tag options: [max_connections: 1, max_queue: 3]
  test "one more than may wait is refused, and may come again", %{pool: pool} do
    {holder, pid} = occupied(pool)
    waiters = waiting(pool, 3)

    assert {:error, %Error{category: :overloaded, outcome: :not_started} = error} =
             sample(pool, "record", [:refused])

    assert error.retry_after_ms > 0
    assert Exception.message(error) =~ "max_queue: 3"
    send(pid, :go)
    assert {:ok, :done} = Task.await(holder, 60_000)
    assert Enum.all?(Task.await_many(waiters, 60_000), &match?({:ok, _}, &1))
    assert begun(pool) == [1, 2, 3]
  end

  @tag options: [max_connections: 1, max_queue: 3, overflow: :drop_oldest]
  test "drop_oldest: who has waited longest makes room", %{pool: pool} do
    {holder, pid} = occupied(pool)
    [oldest | _] = waiters = waiting(pool, 3)
    last = Task.async(fn -> sample(pool, "record", ["last"]) end)
    assert {:error, %Error{category: :overloaded, outcome: :not_started}} = Task.await(oldest, 60_000)
    send(pid, :go)
    assert {:ok, :done} = Task.await(holder, 60_000)
    assert Enum.all?(Task.await_many([last | tl(waiters)], 60_000), &match?({:ok, _}, &1))
    assert begun(pool) == [2, 3, "last"]
  end

  @tag options: [max_connections: 1, max_queue: 2, overflow: :wait]
  test "wait: only its deadline bounds how long a call waits, and then it was never sent", %{pool: pool} do
    {holder, pid} = occupied(pool)
    waiters = waiting(pool, 4)

    assert {:error, %Error{category: :timeout, outcome: :not_started}} =
             sample(pool, "record", [0], __runtime__: [timeout: 50])

    send(pid, :go)
    assert {:ok, :done} = Task.await(holder, 60_000)
    assert Enum.all?(Task.await_many(waiters, 60_000), &match?({:ok, _}, &1))
    assert begun(pool) == [1, 2, 3, 4]
  end

  @tag options: [max_connections: 1]
  test "a call that would wait longer than its deadline is refused at once", %{pool: pool} do
    # The pace of a connection: one call in 30 ms, of which twenty go by. Those behind them wait for one that holds the connection.
    {first, go_first} = occupied(pool)
    paced = waiting(pool, 20, 0.03)
    me = self()
    hold = fn -> send(me, {:in, self()}) && receive(do: (:go -> :done)) end
    holder = Task.async(fn -> sample(pool, "apply", [hold]) end)
    assert eventually(fn -> match?([%{queue: 21}], Pool.info(pool)) end)
    late = for _ <- 1..40, do: Task.async(fn -> sample(pool, "record", [0]) end)
    assert eventually(fn -> match?([%{queue: 61}], Pool.info(pool)) end)
    send(go_first, :go)
    assert_receive {:in, go_on}
    answer = sample(pool, "record", ["shed"], __runtime__: [timeout: 200])
    assert {:error, %Error{category: :overloaded, outcome: :not_started, retry_after_ms: pause}} = answer
    assert pause > 200
    # Who has the time waits.
    [%{queue: before}] = Pool.info(pool)
    patient = Task.async(fn -> sample(pool, "record", [1], __runtime__: [timeout: 60_000]) end)
    assert eventually(fn -> hd(Pool.info(pool)).queue > before end)
    send(go_on, :go)
    assert Enum.all?(Task.await_many([first, holder, patient | paced ++ late], 60_000), &match?({:ok, _}, &1))
    refute "shed" in begun(pool)
  end

  @tag options: [max_connections: 16]
  test "a session that floods leaves the others their share", %{pool: pool} do
    quiet = fn -> for n <- 1..20, do: {:ok, _} = sample(pool, "record", [n, 0.005]) end
    {:ok, session} = SnakeBridge.create_session()
    stop = :atomics.new(1, [])
    flooded = :counters.new(1, [])

    flood =
      for _ <- 1..200 do
        Task.async(fn -> SnakeBridge.in_session(session, fn -> flood(pool, stop, flooded) end) end)
      end

    assert eventually(fn -> match?([%{queue: n}] when n > 100, Pool.info(pool)) end)
    before = :counters.get(flooded, 1)
    Task.await_many(for(_ <- 1..4, do: Task.async(quiet)), 60_000)
    between = :counters.get(flooded, 1) - before
    :atomics.put(stop, 1, 1)
    Task.await_many(flood, 60_000)
    # First come, first served, each of a quiet session's 20 calls would wait until the flood has had 200.
    assert between in 20..2_000
  end

  defp flood(pool, stop, flooded) do
    {:ok, _} = sample(pool, "record", [0, 0.005])
    :counters.add(flooded, 1, 1)
    if :atomics.get(stop, 1) == 0, do: flood(pool, stop, flooded)
  end

  # --- the queue and the admission by themselves ---

  defp queue(sessions),
    do:
      Enum.reduce(Enum.with_index(sessions), Queue.new(), fn {s, i}, q ->
        Queue.join(q, %{session: s, n: i})
      end)

  defp order(queue, held, most \\ 100) do
    case Queue.next(queue, held, most) do
      {entry, queue} -> [{entry.session, entry.n} | order(queue, held, most)]
      :none -> []
    end
  end

  test "sessions take turns, in the order in which they came" do
    assert order(queue([1, 1, 1, 2, 3, 2]), %{}) == [{1, 0}, {2, 3}, {3, 4}, {1, 1}, {2, 5}, {1, 2}]
  end

  test "who holds less is first, and who holds enough waits" do
    assert order(queue([1, 1, 2, 3]), %{1 => 5, 2 => 1}) == [{3, 3}, {2, 2}, {1, 0}, {1, 1}]
    assert order(queue([1, 2]), %{1 => 5}, 5) == [{2, 1}]
    assert order(queue([]), %{}) == []
  end

  test "every entry comes out once, whatever happens in between" do
    :rand.seed(:exsss, {1, 2, 3})

    for _ <- 1..200 do
      entries = for n <- 1..40, do: %{session: :rand.uniform(5), n: n}
      queue = Enum.reduce(entries, Queue.new(), &Queue.join(&2, &1))
      {rejected, queue} = Queue.reject(queue, &(rem(&1.n, 7) == 0))
      {oldest, queue} = Queue.oldest_of_longest(queue)
      held = Map.new(1..3, &{&1, :rand.uniform(3)})
      left = for {_, n} <- order(queue, held), do: n
      assert Enum.sort([oldest.n | left] ++ Enum.map(rejected, & &1.n)) == Enum.to_list(1..40)
      assert Queue.size(queue) == length(left)
    end
  end

  # A thousand processes that end leave a thousand sessions to be ended.
  test "calls that end sessions take nobody's place, and lose theirs to nobody" do
    endings =
      for n <- 1..20, reduce: Queue.new(), do: (queue -> Queue.join(queue, %{session: n, ends: true, n: n}))

    entry = %{session: 21, deadline: Pool.deadline(50_000), from: nil, ends: false, n: 21}

    # One connection every ten seconds.
    paced =
      for n <- 0..20,
          reduce: Admission.new(max_queue: 1, overflow: :drop_oldest),
          do: (admission -> Admission.granted(admission, 10_000_000 * n))

    assert Admission.admit(paced, endings, entry, "w") == :join
    assert Queue.position(endings, 21) == 1
    assert Queue.oldest_of_longest(endings) == :none

    full = Queue.join(endings, entry)
    assert Admission.admit(paced, full, %{entry | session: 22}, "w") == :displace
    assert {%{n: 21}, left} = Queue.oldest_of_longest(full)
    assert {Queue.size(left), Queue.working(left)} == {20, 0}
    assert Admission.full(paced, full, "w").message =~ "1 calls wait"
    {out, left} = Queue.reject(full, &(&1.n > 10))
    assert {length(out), Queue.size(left), Queue.working(left)} == {11, 10, 0}
  end

  test "nobody is refused for a pace that is not known, and a pause in work is no pace" do
    admission = Admission.new([])
    soon = Pool.deadline(5)
    entry = %{session: 1, deadline: soon}
    crowd = queue(Enum.to_list(2..101))
    assert Admission.admit(admission, crowd, entry, "w") == :join
    paced = Enum.reduce(1..20, admission, &Admission.granted(&2, &1 * 1_000))
    assert {:refuse, %Error{retry_after_ms: 101}} = Admission.admit(paced, crowd, entry, "w")
    assert Admission.admit(paced, Queue.new(), %{entry | deadline: Pool.deadline(60_000)}, "w") == :join
    rested = paced |> Admission.idle() |> Admission.granted(60_000_000)
    assert rested.interval == paced.interval
  end
end
