defmodule SnakeBridge.StoppedTest do
  @moduledoc "Sessions of a project while the application `:snakebridge` is stopped, and when it runs again."
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  @moduletag capture_log: true

  alias SnakeBridge.{Batcher, Error, Flow, Session, SessionPool}

  setup do
    on_exit(fn -> Application.ensure_all_started(:snakebridge) end)
  end

  test "they say so, live on, and begin again with the application" do
    options = [init: fn -> SnakeBridge.call("models", "Doubler") end, pool: :single]
    session = start_supervised!({Session, options})
    sessions = :"sessions_#{System.unique_integer([:positive])}"
    pool = start_supervised!({SessionPool, [name: sessions, size: 1] ++ options})
    batcher = start_supervised!({Batcher, session: session, method: :predict, max_delay: 0})
    assert {:ok, _} = Session.call(session, :pid)
    assert {:ok, _} = SessionPool.call(sessions, :pid, [])

    :ok = Application.stop(:snakebridge)
    assert eventually(fn -> Session.info(session).status != :ready end)
    assert {:error, %Error{category: :unavailable, message: message}} = Session.call(session, :pid)
    assert message =~ "the application :snakebridge is not running"
    assert {:error, %Error{category: :unavailable}} = Batcher.call(batcher, [[1.0]])
    assert :ok = Session.cast(session, :warm_up)
    # One that is stopped meanwhile ends in good order.
    {:ok, short} = Session.start_link(options)
    assert :ok = Session.stop(short)

    {:ok, _} = Application.ensure_all_started(:snakebridge)
    assert {:ok, _} = Session.call(session, :pid)
    assert eventually(fn -> Session.call!(session, fn model -> SnakeBridge.get_attr(model, :warm) end) end)
    assert {:ok, _} = SessionPool.call(sessions, :pid, [])
    assert {:ok, _} = Batcher.call(batcher, [[1.0]])
    assert Process.alive?(session) and Process.alive?(pool)
  end

  test "a stop that no call has noticed costs no call" do
    options = [init: fn -> SnakeBridge.call("models", "Doubler") end, pool: :single]
    session = start_supervised!({Session, options})
    assert :ok = Session.await(session)
    :ok = Application.stop(:snakebridge)
    {:ok, _} = Application.ensure_all_started(:snakebridge)
    assert {:ok, _} = Session.call(session, fn model -> SnakeBridge.call_method(model, :pid) end)
  end

  test "a plain call says so, too" do
    :ok = Application.stop(:snakebridge)
    stopped = ~r/the application :snakebridge is not running; start it/
    assert {:error, %Error{category: :unavailable} = error} = SnakeBridge.call("math", "sqrt", [4])
    assert Exception.message(error) =~ stopped
    assert_raise Error, stopped, fn -> SnakeBridge.stream("builtins", "range", [3]) |> Enum.to_list() end
    # Runs of flows are known to the application, too.
    flow = %{"slots" => %{}, "terms" => []}
    assert {:error, %Error{category: :unavailable}} = Flow.run(flow)
    assert {:error, %Error{category: :unavailable}} = flow |> Flow.start() |> Flow.await()
    assert {:error, %Error{category: :unavailable}} = Flow.cancel("evening")
    assert_raise Error, stopped, fn -> flow |> Flow.stream() |> Enum.to_list() end
    {:ok, _} = Application.ensure_all_started(:snakebridge)
    assert {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4])
  end

  test "a pool that was started outside the application knows nothing of the next one, and says so" do
    {:ok, pool} =
      SnakeBridge.Pool.start_link(name: :of_earlier, size: 1, python: Path.expand(".venv/bin/python"))

    Process.unlink(pool)
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: :of_earlier)
    :ok = Application.stop(:snakebridge)
    {:ok, _} = Application.ensure_all_started(:snakebridge)
    refused = SnakeBridge.call("math", "sqrt", [16], pool: :of_earlier)
    assert {:error, %Error{category: :unavailable, outcome: :not_started, message: message}} = refused
    assert message =~ "restart its supervisor"
    Supervisor.stop(pool, :shutdown)
  end
end
