defmodule SnakeBridge.SessionPoolTest do
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  @moduletag capture_log: true

  alias SnakeBridge.{Error, Pool, Session, SessionPool}

  setup_all do
    # Its workers are not those that other tests kill, whose successors rest longer and longer.
    options = Application.get_env(:snakebridge, :pools)[:default]
    start_supervised!({Pool, [name: :session_pools] ++ options})
    :ok
  end

  defp start(options) do
    name = :"sessions_#{System.unique_integer([:positive])}"
    init = fn -> SnakeBridge.call("models", "Doubler") end

    options =
      Keyword.merge([name: name, size: 2, init: init, pool: :session_pools, queue_timeout: 60_000], options)

    start_supervised!({SessionPool, options}, id: name)
    name
  end

  defp ready(name) do
    for index <- 1..SessionPool.size(name), do: :ok = Session.await(SessionPool.session(name, index))
    name
  end

  # Holds a session until it is told to let it go.
  defp hold(name, opts \\ []) do
    me = self()

    task =
      Task.async(fn ->
        SessionPool.checkout(
          name,
          fn session ->
            send(me, {:held, self(), session})
            receive(do: (:go -> session))
          end,
          opts
        )
      end)

    assert_receive {:held, pid, session}
    {task, pid, session}
  end

  test "each session is on a worker of its own, and both strategies use them all" do
    for strategy <- [:least_busy, :round_robin] do
      name = ready(start(strategy: strategy))
      pids = for _ <- 1..6, do: SessionPool.call(name, :pid, []) |> elem(1)
      assert pids |> Enum.frequencies() |> Map.values() == [3, 3]
      assert [_, _] = pids |> Enum.take(2) |> Enum.uniq()
    end
  end

  test "a session that is borrowed is passed over, and comes back when its borrower is done or dead" do
    name = ready(start([]))
    {task, holder, session} = hold(name)
    {:ok, free} = SessionPool.call(name, :pid, [])
    for _ <- 1..3, do: assert({:ok, ^free} = SessionPool.call(name, :pid, []))
    assert Session.call!(session, :pid) != free
    assert %{sessions: sessions, waiting: 0} = SessionPool.info(name)
    assert sessions |> Enum.map(& &1.busy) |> Enum.sort() == [0, 1]

    {other, other_holder, _} = hold(name)
    waiting = Task.async(fn -> SessionPool.call(name, :pid, []) end)
    Process.unlink(task.pid)
    Process.exit(holder, :kill)
    assert {:ok, pid} = Task.await(waiting, 60_000)
    assert pid != free
    send(other_holder, :go)
    Task.await(other, 60_000)
  end

  test "who waits too long, or too many, is told what to change" do
    name = ready(start(size: 1, max_queue: 1, queue_timeout: 500))
    {task, holder, _} = hold(name)
    assert {:error, %Error{category: :timeout, message: message}} = SessionPool.call(name, :pid, [])

    assert message =~
             "none of the 1 sessions of #{inspect(name)}, of which 1 are ready, was free in time; raise size:"

    send(holder, :go)
    Task.await(task, 60_000)

    # Here nobody gives up while the next one comes.
    name = ready(start(size: 1, max_queue: 1))
    {task, holder, _} = hold(name)
    waiting = Task.async(fn -> SessionPool.call(name, :pid, []) end)
    assert eventually(fn -> SessionPool.info(name).waiting == 1 end)
    assert {:error, %Error{category: :unavailable, message: message}} = SessionPool.call(name, :pid, [])
    assert message =~ "1 callers wait"
    assert message =~ "raise size: or max_queue:"
    send(holder, :go)
    Task.await(task, 60_000)
    assert {:ok, _} = Task.await(waiting, 60_000)
    assert {:ok, _} = SessionPool.call(name, :pid, [])
  end

  test "when one session dies the others serve, and it comes back" do
    name = ready(start([]))
    [one, two] = for index <- 1..2, do: Session.call!(SessionPool.session(name, index), :pid)
    assert {:error, %Error{category: :worker_crash}} = Session.call(SessionPool.session(name, 1), :die)
    for _ <- 1..5, do: refute(match?({:ok, ^one}, {:ok, _} = SessionPool.call(name, :pid, [])))
    :ok = Session.await(SessionPool.session(name, 1))
    pids = for _ <- 1..4, do: SessionPool.call(name, :pid, []) |> elem(1)
    assert two in pids
    refute one in pids
    assert [_, _] = Enum.uniq(pids)
  end

  test "a call that is given a session which has ended in this moment is run on another one" do
    name = ready(start([]))
    desk = Module.concat(name, "Desk")
    # Nobody starts the session again, and its lender does not know yet.
    :ok = :sys.suspend(name)
    :ok = :sys.suspend(desk)
    call = Task.async(fn -> SessionPool.call(name, fn model -> SnakeBridge.call_method(model, :pid) end) end)

    assert eventually(fn ->
             {:message_queue_len, 1} == Process.info(Process.whereis(desk), :message_queue_len)
           end)

    ended = Process.whereis(SessionPool.session(name, 1))
    monitor = Process.monitor(ended)
    Process.exit(ended, :kill)
    assert_receive {:DOWN, ^monitor, :process, _, _}
    :ok = :sys.resume(desk)
    assert {:ok, pid} = Task.await(call, 60_000)
    assert is_integer(pid)
    :ok = :sys.resume(name)
  end

  test "a pool that is killed comes back, whatever is left of it" do
    name = :"sessions_#{System.unique_integer([:positive])}"
    init = fn -> SnakeBridge.call("models", "Doubler") end
    options = [name: name, size: 2, init: init, pool: :session_pools]

    start_supervised!(%{
      id: name,
      start: {Supervisor, :start_link, [[{SessionPool, options}], [strategy: :one_for_one]]}
    })

    killed = Process.whereis(name)
    session = name |> ready() |> SessionPool.session(1) |> Process.whereis()
    # It has not ended when the pool is started again.
    true = :erlang.suspend_process(session)
    Process.exit(killed, :kill)
    assert eventually(fn -> Process.whereis(name) not in [nil, killed] end)
    true = :erlang.resume_process(session)
    assert eventually(fn -> match?({:ok, _}, SessionPool.call(name, :pid, [])) end)
  end

  test "a call that waits for sessions whose worker dies while they begin waits for their next life" do
    for opts <- [[], [idempotent: true]] do
      begun = :counters.new(1, [])

      init = fn ->
        :counters.add(begun, 1, 1)

        if :counters.get(begun, 1) == 1,
          do: SnakeBridge.call("os", "_exit", [1]),
          else: SnakeBridge.call("models", "Doubler")
      end

      assert {:ok, _} = SessionPool.call(start(size: 1, init: init), :pid, [], opts)
      assert :counters.get(begun, 1) == 2
    end
  end

  test "an idempotent call is run again on another session" do
    name = ready(start([]))
    marker = Path.join(System.tmp_dir!(), "died-#{System.pid()}-#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm(marker) end)
    assert {:ok, "again"} = SessionPool.call(name, :die_once, [marker], idempotent: true)
  end

  test "a pool whose sessions cannot begin says why" do
    name = start(init: fn -> SnakeBridge.call("models", "no_such_model") end, max_failures: 3)
    assert {:error, %Error{category: :python_error, message: message}} = SessionPool.call(name, :pid, [])
    assert message =~ "no attribute 'no_such_model'"
  end

  test "sessions that run calls side by side are lent to several, and each of them can be reached" do
    name = ready(start(size: 1, concurrent: true))
    {one, one_pid, _} = hold(name)
    {two, two_pid, _} = hold(name)
    assert {:ok, _} = SessionPool.call(name, :pid, [])
    for pid <- [one_pid, two_pid], do: send(pid, :go)
    Task.await_many([one, two], 60_000)
    assert [:ok] = SessionPool.each(name, fn model -> SnakeBridge.set_attr(model, :factor, 5.0) end)
    assert {:ok, 5.0} = SessionPool.call(name, fn model -> SnakeBridge.get_attr(model, :factor) end)
  end

  test "the pool is refused what it cannot be" do
    assert_raise ArgumentError, ~r/needs a name/, fn -> SessionPool.start_link(init: fn -> :ok end) end

    assert_raise ArgumentError, ~r/strategy: must be/, fn ->
      SessionPool.start_link(name: :x, strategy: :random)
    end

    assert {:error, %Error{category: :unavailable, message: message}} = SessionPool.call(:no_pool, :pid, [])
    assert message =~ "runs as :no_pool: start it with {SnakeBridge.SessionPool"

    for {options, rule} <- [
          {[init: 1], "init: must"},
          {[max_queue: -1], "max_queue: must"},
          {[queue_timeout: "1"], "a timeout"},
          {[nme: 1], "no option :nme"}
        ] do
      assert_raise ArgumentError, ~r/#{rule}/, fn ->
        SessionPool.start_link(Keyword.merge([name: :x, init: fn -> :ok end], options))
      end
    end
  end
end
