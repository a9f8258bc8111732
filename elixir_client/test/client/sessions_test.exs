defmodule SnakeBridge.SessionsTest do
  use ExUnit.Case, async: true

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, SessionContext}

  defp acc(n \\ 1), do: SnakeBridge.call!("sample", "Acc", [n])

  test "a process has a session of its own, and another cannot use its refs" do
    mine = acc()
    session = SnakeBridge.current_session()
    assert {:ok, 2} = SnakeBridge.call(mine, :add, [1])

    Task.async(fn ->
      assert SnakeBridge.current_session() != session

      # The ref names its session, so a method works from anywhere; as an argument of a call in another session it does not.
      assert {:error, %Error{category: :session_mismatch}} = SnakeBridge.call("sample", "identity", [mine])

      assert {:ok, ^mine} =
               SnakeBridge.in_session(session, fn -> SnakeBridge.call("sample", "identity", [mine]) end)
    end)
    |> Task.await(60_000)
  end

  test "the session of a process ends with it" do
    ref = Task.async(fn -> acc() end) |> Task.await(60_000)

    assert eventually(fn ->
             match?({:error, %Error{category: :unknown_ref}}, SnakeBridge.call(ref, :add, [1]))
           end)
  end

  test "sessions can be made, entered, nested, left when the code raises, and closed" do
    {:ok, session} = SnakeBridge.create_session()
    outer = SnakeBridge.current_session()

    assert_raise RuntimeError, fn ->
      SnakeBridge.in_session(session, fn ->
        assert SnakeBridge.current_session() == session
        assert session != SessionContext.with_session(fn -> SnakeBridge.current_session() end)
        raise "out"
      end)
    end

    assert SnakeBridge.current_session() == outer
    ref = SnakeBridge.in_session(session, fn -> acc() end)
    assert :ok = SnakeBridge.close_session(session)
    assert {:error, %Error{category: :unknown_ref}} = SnakeBridge.call(ref, :add, [1])
  end

  test "releasing a session leaves those alone whose ids begin like it" do
    name = "a#{System.unique_integer([:positive])}"
    one = SnakeBridge.in_session(name, fn -> acc() end)
    two = SnakeBridge.in_session(name <> ":b", fn -> acc() end)
    :ok = SnakeBridge.release_session(name)
    assert {:error, %Error{category: :unknown_ref}} = SnakeBridge.call(one, :add, [1])
    assert {:ok, 2} = SnakeBridge.call(two, :add, [1])
  end

  test "a session stays on its worker, and sessions spread over the workers" do
    sessions = for _ <- 1..20, do: elem(SnakeBridge.create_session(), 1)
    pids = for session <- sessions, do: SnakeBridge.in_session(session, &worker_of_five_calls/0)
    assert pids |> Enum.uniq() |> length() == 2
    Enum.each(sessions, &SnakeBridge.close_session/1)
  end

  defp worker_of_five_calls do
    [pid] = Enum.uniq(for _ <- 1..5, do: SnakeBridge.call!("os", "getpid"))
    pid
  end

  test "pinned sessions keep one Python thread" do
    {:ok, session} = SnakeBridge.create_session(pinned: true)

    threads =
      for _ <- 1..8,
          do:
            Task.async(fn ->
              SnakeBridge.in_session(session, fn -> SnakeBridge.call!("sample", "thread_id") end)
            end)

    assert threads |> Task.await_many(60_000) |> Enum.uniq() |> length() == 1
    SnakeBridge.close_session(session)
  end

  test "a session's queue and what it holds can be bounded" do
    {:ok, session} = SnakeBridge.create_session(max_queue: 0, max_bytes: 1_000_000)
    me = self()

    holder =
      Task.async(fn ->
        wait = fn _ -> send(me, :holds) && receive(do: (:go_on -> :done)) end
        SnakeBridge.in_session(session, fn -> SnakeBridge.call("sample", "apply", [wait, 1]) end)
      end)

    assert_receive :holds

    refused = SnakeBridge.in_session(session, fn -> SnakeBridge.call("math", "sqrt", [4]) end)
    assert {:error, %Error{category: :overloaded, outcome: :not_started} = error} = refused
    assert error.details["queue_limit"] == 0 and error.retry_after_ms >= 1
    send(holder.pid, :go_on)
    assert {:ok, _} = Task.await(holder, 60_000)

    big =
      SnakeBridge.in_session(session, fn ->
        SnakeBridge.call("sample", "filled", [2_000_000], __runtime__: [result: :ref])
      end)

    assert {:error, %Error{category: :memory_limit, outcome: :unknown, details: %{"max_bytes" => 1_000_000}}} =
             big

    SnakeBridge.close_session(session)
  end

  test "bounds of a session that make no sense raise" do
    for {option, value} <- [max_queue: -1, max_queue: "many", overflow: :block, max_bytes: 0, pinned: 1] do
      assert_raise ArgumentError, ~r/the session option #{option} is .*; it must be/, fn ->
        SnakeBridge.create_session([{option, value}])
      end
    end
  end

  test "a thousand processes leave nothing behind" do
    refs =
      1..1000
      |> Task.async_stream(fn _ -> acc() end, max_concurrency: 50, timeout: 60_000)
      |> Enum.map(fn {:ok, ref} -> ref end)

    assert eventually(fn ->
             Enum.all?(
               Enum.take_random(refs, 20),
               &match?({:error, %Error{category: :unknown_ref}}, SnakeBridge.call(&1, :add, [1]))
             )
           end)
  end

  # Releases happen in the background, after the process is gone.
end
