defmodule SnakeBridge.TalkBackTest do
  @moduledoc "Python sends messages and calls functions by itself: `bridge_adapter.elixir`, in calls and between them."
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import SnakeBridge.Test.Eventually

  # One worker, so that what one call leaves in Python is there for the next.
  @single [pool: :single]

  defp talk(function, args), do: SnakeBridge.call("talker", function, args, @single)

  test "what a call sends is in the mailbox when it returns, in order" do
    {:ok, nil} = talk("send_numbers", [self(), 100])
    assert for(_ <- 1..100, do: receive(do: (n -> n), after: (0 -> :nothing))) == Enum.to_list(0..99)
  end

  test "a hundred thousand messages of a call are there when it returns, under whatever name" do
    Process.register(self(), :talk_back_many)
    {:ok, nil} = talk("send_by_turns", [[self(), "talk_back_many"], 100_000])
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 100_000}
    for n <- 0..99_999, do: assert_received(^n)
  end

  test "a function reads what was sent before it was called, and not what is sent after" do
    read = fn -> receive(do: (n when is_integer(n) -> n), after: (0 -> nil)) end
    assert talk("send_around", [self(), read]) == {:ok, [1, nil, 2]}
    assert_received 3
    refute_received _
  end

  test "a message is any value, and to anybody" do
    message = {:done, %{"loss" => 0.5, :at => ~D[2024-02-29]}, [<<255>>, nil]}
    {:ok, nil} = talk("send", [self(), message])
    assert_received ^message

    Process.register(self(), :talk_back_test)

    for name <- [:talk_back_test, "talk_back_test", {:talk_back_test, node()}],
        do: {:ok, nil} = talk("send", [name, name])

    assert_received :talk_back_test
    assert_received "talk_back_test"
    assert_received {:talk_back_test, _}
  end

  test "objects in a message are refs of the call's session" do
    {:ok, nil} = talk("send_object", [self()])
    assert_received {%SnakeBridge.Ref{} = ref, _}
    assert {:ok, "Loud"} = SnakeBridge.get_attr(ref, "__name__")
  end

  test "threads and coroutines send, and streams do while their reader sleeps" do
    {:ok, nil} = talk("send_in_thread", [self(), :thread])
    assert_receive :thread
    {:ok, nil} = talk("send_in_coroutine", [self(), :coroutine])
    assert_receive :coroutine

    assert SnakeBridge.stream("talker", "yield_and_send", [self(), 3], @single) |> Enum.to_list() == [0, 1, 2]
    for n <- 0..2, do: assert_receive(^n)
  end

  test "messages and calls come between calls, from threads that belong to no call" do
    {:ok, nil} = talk("send_between_calls", [self(), :later])
    {:ok, nil} = talk("result_of_background", [])
    assert_receive :later

    test = self()
    {:ok, nil} = talk("call_between_calls", [fn x -> send(test, {:called, x}) && 2 * x end, 21])
    assert {:ok, 42} = talk("result_of_background", [])
    assert_received {:called, 21}
  end

  @tag :capture_log
  test "a GenServer gets them in handle_info" do
    {:ok, agent} = Agent.start_link(fn -> [] end)
    {:ok, nil} = talk("send", [agent, :unexpected])
    # An Agent has no handler of its own; that it lives says that the message went through handle_info/2.
    assert Agent.get(agent, & &1) == []
  end

  test "a dead process gets nothing, silently; a name that nobody has is told" do
    {pid, monitor} = spawn_monitor(fn -> :ok end)
    assert_receive {:DOWN, ^monitor, _, _, _}
    assert {:ok, nil} = talk("send", [pid, 1])

    Logger.configure(level: :warning)
    on_exit(fn -> Logger.configure(level: :error) end)
    log = capture_log(fn -> assert {:ok, nil} = talk("send", ["no_such_name", 1]) end)
    assert log =~ ~s(Python sent a message to "no_such_name", and no process has that name)
  end

  test "what is no process is a TypeError" do
    assert {:error, %{python_type: "TypeError", message: message}} = talk("send", [[:nobody], 1])
    assert message =~ "pass self() from Elixir"
  end

  test "a pid of another pool is told, and costs no call and no worker" do
    Logger.configure(level: :warning)
    on_exit(fn -> Logger.configure(level: :error) end)
    {:ok, bytes} = SnakeBridge.call("builtins", "getattr", [self(), "data"])

    code =
      "from bridge_adapter.codec import OpaqueTerm\nimport talker\ntalker.send_in_thread(OpaqueTerm(data), 1)\ntalker.send(OpaqueTerm(data), 2)"

    before = for %{generation: n} <- SnakeBridge.Pool.info(:single), do: n

    log =
      capture_log(fn ->
        assert {:ok, nil} = SnakeBridge.call("builtins", "exec", [code, %{"data" => bytes}], @single)
      end)

    assert log =~ "an opaque term came in that was not sent from here"
    assert {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4], @single)
    assert for(%{generation: n} <- SnakeBridge.Pool.info(:single), do: n) == before
    refute_received 2
  end

  test "calls have a timeout of their own, and fail when the process is gone" do
    test = self()

    slow = fn ->
      send(test, {:asked, self()})
      receive do: (:go -> :ok)
    end

    assert {:ok, "NoAnswer: " <> _} =
             SnakeBridge.call("talker", "call_in_thread", [slow], [timeout: 0.05] ++ @single)

    assert_receive {:asked, pid}
    send(pid, :go)

    known = fn -> :ets.tab2list(SnakeBridge.CallbackRegistry) |> MapSet.new(&elem(&1, 0)) end
    before = known.()
    owner = Task.async(fn -> talk("call_between_calls", [fn -> 1 end]) end)
    {:ok, nil} = Task.await(owner, 60_000)
    # A task has answered before it is gone.
    assert eventually(fn -> MapSet.subset?(known.(), before) end)
    assert {:ok, "CallbackGone: " <> _} = talk("result_of_background", [])
  end

  defmodule Unreachable do
    def whereis_name(_), do: exit({:noproc, :its_registry})
  end

  @tag :capture_log
  test "a name whose registry cannot be asked costs nobody but that message" do
    Logger.configure(level: :warning)
    on_exit(fn -> Logger.configure(level: :error) end)
    [%{os_pid: os_pid}] = SnakeBridge.Pool.info(:single)
    log = capture_log(fn -> {:ok, nil} = talk("send", [{:via, Unreachable, :x}, 1]) end)
    assert log =~ "which failed" and log =~ "its_registry"
    {:ok, nil} = talk("send_in_thread", [{:via, Unreachable, :x}, 1])
    {:ok, nil} = talk("send_in_thread", [self(), :after_it])
    assert_receive :after_it
    assert [%{os_pid: ^os_pid}] = SnakeBridge.Pool.info(:single)
  end
end
