defmodule SnakeBridge.LineageTest do
  @moduledoc "Sessions whose objects are made anew when their worker dies."
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO
  import SnakeBridge.Test.Eventually

  @moduletag capture_log: true

  alias SnakeBridge.{Error, Session, SessionContext, Telemetry}

  @pool :lineage

  # A pool of its own for each test: its worker has not died yet, and is started again at once.
  setup do
    options = Application.fetch_env!(:snakebridge, :pools)[:single]
    start_supervised!({SnakeBridge.Pool, [{:name, @pool} | options]})
    :ok
  end

  defp session(opts \\ []) do
    {:ok, session} = SnakeBridge.create_session([pool: @pool, recover: :lineage] ++ opts)
    on_exit(fn -> SnakeBridge.close_session(session) end)
    session
  end

  defp worker, do: SnakeBridge.call!("os", "getpid", [], pool: @pool)

  # Returns when the worker is dead, not when the next one is ready.
  defp kill do
    pid = worker()
    System.cmd("kill", ["-9", to_string(pid)])
    eventually(fn -> not File.dir?("/proc/#{pid}") end)
    pid
  end

  defp make(name, args \\ []), do: SnakeBridge.call!("lineages", name, args, idempotent: true)
  defp total(ref), do: SnakeBridge.call(ref, :total, [], mutates: false)

  test "refs of a session that is recovered go on after the death of its worker" do
    :ok = Telemetry.attach(self(), [:snakebridge, :session, :rebuilt], &told/4, self())
    session = session()

    SnakeBridge.in_session(session, fn ->
      basket = make("Basket", [1, 2])
      pair = make("Pair", [basket, make("Basket", [10])])
      {:ok, 3} = SnakeBridge.call(basket, :add, [3], idempotent: true)
      killed = kill()
      assert {:ok, 16} = total(pair)
      assert_received {:rebuilt, %{calls: 4, lost: 0, duration: _}, %{session: ^session, pool: @pool}}
      assert worker() != killed
      {:ok, 4} = SnakeBridge.call(basket, :add, [4], idempotent: true)
      kill()
      assert {:ok, 20} = total(pair)
    end)
  after
    Telemetry.detach(self())
  end

  def told(_, measurements, metadata, pid), do: send(pid, {:rebuilt, measurements, metadata})

  test "calls that must not be made twice are not, and those that may are" do
    SnakeBridge.in_session(session(), fn ->
      basket = make("Basket", [1])
      assert {:error, %Error{category: :worker_crash, outcome: :unknown}} = SnakeBridge.call(basket, :crash)
      assert {:ok, 1} = total(basket)

      marker = Path.join(System.tmp_dir!(), "lineage-#{System.unique_integer([:positive])}")
      on_exit(fn -> File.rm(marker) end)
      assert {:ok, 2} = SnakeBridge.call(basket, :add_and_die, [marker, 5], idempotent: true)
      assert {:ok, 6} = total(basket)
    end)
  end

  test "what cannot be rebuilt says which call was not marked, and can be made again" do
    SnakeBridge.in_session(session(), fn ->
      basket = SnakeBridge.call!("lineages", "Basket", [1])
      kill()
      assert {:error, %Error{category: :session_lost, message: text}} = total(basket)
      assert text =~ "made by `lineages.Basket`, which was not marked idempotent"
      assert {:ok, 1} = total(make("Basket", [1]))
    end)
  end

  test "what was released is no lost object" do
    SnakeBridge.in_session(session(), fn ->
      [basket, _other] = [make("Basket", [1]), make("Basket", [2])]
      :ok = SnakeBridge.release_ref(basket)
      kill()
      assert {:error, %Error{category: category}} = total(basket)
      assert category in [:session_lost, :unknown_ref]
    end)
  end

  test "readers of a held stream see each item once, whenever the worker dies" do
    SnakeBridge.in_session(session(), fn ->
      numbers = SnakeBridge.call!(make("Basket", Enum.to_list(1..50)), :numbers, [], idempotent: true)

      seen =
        for number <- numbers do
          if number in [2, 40], do: kill()
          number
        end

      assert seen == Enum.to_list(1..50)

      # An object that is no stream is read through an iterator of its own.
      counter =
        SnakeBridge.call!("collections", "Counter", ["abc"], idempotent: true, __runtime__: [result: :ref])

      assert Enum.count(counter) == 3

      letters =
        for letter <- Stream.map(counter, & &1) do
          if letter == "b", do: kill()
          letter
        end

      assert letters == ["a", "b", "c"]
    end)
  end

  test "an idempotent stream goes on where it was, with items in flight or without" do
    marks = Path.join(System.tmp_dir!(), "marks-#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm(marks) end)
    stream = SnakeBridge.stream("lineages", "counted", [2000, marks], idempotent: true, pool: @pool)

    seen =
      for number <- stream do
        if number in [3, 1500], do: kill()
        number
      end

    assert seen == Enum.to_list(0..1999)

    me = self()

    assert :ok =
             SnakeBridge.stream(
               "lineages",
               "counted",
               [20, marks],
               [idempotent: true, pool: @pool],
               fn number ->
                 if number == 7, do: kill()
                 send(me, {:item, number})
               end
             )

    assert for(number <- 0..19, do: assert_received({:item, ^number})) |> length() == 20
  end

  test "a stream that is not idempotent ends with its worker" do
    marks = Path.join(System.tmp_dir!(), "marks-#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm(marks) end)

    assert_raise Error, ~r/died/, fn ->
      for number <- SnakeBridge.stream("lineages", "counted", [200_000, marks], pool: @pool),
          number == 3,
          do: kill()
    end
  end

  test "a supervised session keeps its state, without another init" do
    name = :"lineage_#{System.unique_integer([:positive])}"

    options = [
      name: name,
      pool: @pool,
      recover: :lineage,
      replayable: true,
      init: fn -> SnakeBridge.call("lineages", "Basket", [1]) end
    ]

    start_supervised!({Session, options})
    assert {:ok, 2} = Session.call(name, :add, [5])
    kill()
    assert {:ok, 6} = Session.call(name, :total, [], mutates: false)
    assert %{lives: 1, status: :ready} = Session.info(name)
  end

  test "a supervised session keeps its state when its worker is replaced" do
    name = :"lineage_#{System.unique_integer([:positive])}"
    init = fn -> SnakeBridge.call("lineages", "Basket", [1]) end
    start_supervised!({Session, name: name, pool: @pool, recover: :lineage, replayable: true, init: init})

    for {sessions, count} <- [wait: 2, end: 3] do
      assert {:ok, ^count} = Session.call(name, :add, [5])
      [%{os_pid: old}] = SnakeBridge.Pool.info(@pool)
      assert :ok = SnakeBridge.Pool.restart(@pool, sessions: sessions)
      total = 5 * count - 4
      assert {:ok, ^total} = Session.call(name, :total, [], mutates: false)
      assert %{lives: 1} = Session.info(name)
      assert eventually(fn -> not File.dir?("/proc/#{old}") end)
    end
  end

  # What it did there would be missing in the new process.
  test "a session leaves a replaced process when nothing of it runs there any more" do
    session = session()
    in_session = fn code -> Task.async(fn -> SnakeBridge.in_session(session, code) end) end
    me = self()

    SnakeBridge.in_session(session, fn ->
      [basket, other] = [make("Basket", [1]), make("Basket", [2])]
      {:ok, 2} = SnakeBridge.call(basket, :add, [4], idempotent: true)

      waiting = fn ->
        send(me, {:running, self()})
        receive(do: (:go -> SnakeBridge.call!(other, :add, [7], idempotent: true)))
      end

      running = in_session.(fn -> SnakeBridge.call("sample", "apply", [waiting]) end)
      assert_receive {:running, process}
      assert :ok = SnakeBridge.Pool.restart(@pool, sessions: :end)

      assert {:error, %Error{category: :timeout, outcome: :not_started}} =
               SnakeBridge.call(basket, :total, [], mutates: false, __runtime__: [timeout: 50])

      later = in_session.(fn -> for ref <- [basket, other], do: total(ref) end)
      send(process, :go)
      assert {:ok, 2} = Task.await(running, 60_000)
      assert Task.await(later, 60_000) == [ok: 5, ok: 9]
    end)
  end

  test "a supervised session whose state cannot be rebuilt begins again" do
    name = :"lineage_#{System.unique_integer([:positive])}"
    init = fn -> SnakeBridge.call("lineages", "Basket", [1]) end
    start_supervised!({Session, name: name, pool: @pool, recover: :lineage, init: init})
    assert {:ok, 2} = Session.call(name, :add, [5])
    kill()
    assert {:ok, 1} = Session.call(name, :total, [], mutates: false)
    assert %{lives: 2} = Session.info(name)
  end

  test "the session of a process that has ended leaves nothing in the journal" do
    session = session()
    SnakeBridge.in_session(session, fn -> make("Basket", [1]) end)
    assert SessionContext.recovered?(session)
    assert rows(session) == 1
    :ok = SnakeBridge.close_session(session)
    assert rows(session) == 0
  end

  defp rows(session) do
    [_ | _] = arguments = SnakeBridge.Pool.Journal.arguments(name: @pool)
    path = Enum.at(arguments, 1)
    connection = SnakeBridge.call!("sqlite3", "connect", [path], pool: @pool)

    [{count}] =
      connection
      |> SnakeBridge.call!(:execute, ["SELECT count(*) FROM lineages WHERE session = ?", [session]])
      |> SnakeBridge.call!(:fetchall)

    count
  end

  test "options that make no sense are refused" do
    assert_raise ArgumentError, ~r/must be :lineage/, fn -> SnakeBridge.create_session(recover: :magic) end
    assert_raise ArgumentError, ~r/recover: :lineage/, fn -> SnakeBridge.create_session(replayable: true) end

    assert_raise ArgumentError, ~r/:fail or :warn/, fn ->
      SnakeBridge.create_session(recover: :lineage, on_difference: :maybe)
    end
  end

  test "what comes out different is not given out, and telemetry tells of it" do
    :ok = Telemetry.attach(self(), [:snakebridge, :session, :rebuilt], &told/4, self())

    SnakeBridge.in_session(session(), fn ->
      dice = make("Dice")
      seeded = make("Dice", [7])
      value = SnakeBridge.get_attr(seeded, :value)
      kill()
      assert SnakeBridge.get_attr(seeded, :value) == value
      assert_received {:rebuilt, %{calls: 2, lost: 1}, _}
      assert {:error, %Error{category: :session_lost} = error} = SnakeBridge.get_attr(dice, :value)
      assert error.message =~ "made another object than the first time: give it a seed"
    end)
  after
    Telemetry.detach(self())
  end

  test "examples/recovery does what it says" do
    script = Path.expand("../../../examples/recovery/recovery.exs", __DIR__)
    said = capture_io(fn -> Code.eval_file(script) end)
    [_, _] = lines = String.split(said, "\n", trim: true)

    [first, second] =
      for line <- lines, do: Regex.run(~r/ ([012]{15}) +in process (\d+)/, line, capture: :all_but_first)

    assert [answers, killed] = first
    assert [^answers, next] = second
    assert killed != next
  end
end
