defmodule SnakeBridge.OutputTest do
  @moduledoc "What Python prints, logs and warns reaches the process that made the call, and no other."
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO
  import ExUnit.CaptureLog
  import SnakeBridge.Test.Eventually

  @moduletag :capture_log

  defmodule Forward do
    # A handler of :logger that sends on what it gets.
    def log(%{msg: {:string, text}}, %{config: %{to: pid}}), do: send(pid, {:logged, to_string(text)})
    def log(_, _), do: :ok
  end

  setup do
    Logger.configure(level: :debug)
    on_exit(fn -> Logger.configure(level: :error) end)
  end

  defp say(text, opts \\ []), do: SnakeBridge.call!("talker", "say", [text], opts)

  test "printed text goes to the caller's group leader before the result is there" do
    assert capture_io(fn ->
             assert say("hello") == "hello"
             IO.puts("after")
           end) == "hello\nafter\n"
  end

  test "text without an end of line, and what is no ASCII, arrives as it is" do
    assert capture_io(fn -> say("50 %…", end: "") end) == "50 %…"
  end

  test "stderr goes to standard error" do
    assert capture_io(:stderr, fn ->
             assert capture_io(fn -> SnakeBridge.call!("talker", "say_both", ["x"]) end) == "x\n"
           end) == "x\n"
  end

  test "what a function of the caller says comes where it was called" do
    text =
      capture_io(fn ->
        SnakeBridge.call!("talker", "say_around", [fn word -> IO.puts("in #{word}") end, "x"])
      end)

    assert text == "before x\nin x\nafter x\n"
  end

  test "a function that Python calls from a thread says it to the caller, too" do
    assert capture_io(fn ->
             SnakeBridge.call!("talker", "call_in_thread", [fn -> IO.puts("from a task") end])
           end) == "from a task\n"
  end

  test "concurrent callers hear their own calls and no others" do
    1..8
    |> Task.async_stream(
      fn n ->
        {n, capture_io(fn -> SnakeBridge.call!("talker", "say_many", ["caller-#{n}", 200]) end)}
      end,
      timeout: 60_000
    )
    |> Enum.each(fn {:ok, {n, text}} ->
      assert text == Enum.map_join(0..199, &"caller-#{n} #{&1}\n")
    end)
  end

  test "threads, executors and coroutines of a call speak for it" do
    text =
      capture_io(fn ->
        SnakeBridge.call!("talker", "say_in_thread", ["thread"])
        SnakeBridge.call!("talker", "say_in_pool", ["pool"])
        SnakeBridge.call!("talker", "say_in_coroutine", ["loop", 1])
      end)

    assert text == "thread\npool\nloop 0\nloop to_thread\n"
  end

  test "streams say what they print while they are read" do
    text = capture_io(fn -> SnakeBridge.stream("talker", "items", [3]) |> Enum.each(&IO.puts/1) end)

    assert text |> String.split("\n", trim: true) |> Enum.sort() ==
             Enum.sort(~w(0 1 2) ++ for(n <- 0..2, do: "making #{n}"))
  end

  test "what a thread says after its call goes to the caller while that lives" do
    {:ok, leader} = StringIO.open("")
    caller = caller(leader, "say_when_open", ["afterwards"])
    # The thread says it in the moment in which another call opens the gate.
    SnakeBridge.call!("talker", "open_gate", [], pool: :single)
    assert eventually(fn -> StringIO.contents(leader) == {"", "afterwards\n"} end)
    send(caller, :stop)
  end

  test "what a thread records when its caller has ended goes to Logger all the same" do
    log =
      capture_log(fn ->
        Task.await(
          Task.async(fn ->
            SnakeBridge.call!("talker", "record_and_warn_when_open", ["nobody there"], pool: :single)
          end),
          60_000
        )

        # The thread waits for this, and the worker for nobody.
        SnakeBridge.call!("talker", "open_gate", [], pool: :single)
        SnakeBridge.call!("talker", "join_threads", [], pool: :single)
        say_late()
      end)

    assert log =~ "[error] nobody there"
    assert log =~ ~r/\[warn(ing)?\] +UserWarning: nobody there/
  end

  test "a group leader that does not answer holds up no other caller's threads" do
    deaf = spawn_link(fn -> receive do: (:stop -> :ok) end)
    {:ok, leader} = StringIO.open("")

    log =
      capture_log(fn ->
        [first, second] =
          for {text, leader} <- [{"unheard", deaf}, {"heard", leader}] do
            caller = caller(leader, "say_when_open", [text])
            SnakeBridge.call!("talker", "open_gate", [], pool: :single)
            SnakeBridge.call!("talker", "join_threads", [], pool: :single)
            caller
          end

        assert eventually(fn -> StringIO.contents(leader) == {"", "heard\n"} end)
        for caller <- [first, second], do: send(caller, :stop)
      end)

    assert log =~ "#{inspect(deaf)} does not answer"
    send(deaf, :stop)
  end

  test "a group leader that does not answer holds no call up for ever, and leaves nothing in the mailbox" do
    deaf = spawn_link(fn -> receive do: (:stop -> :ok) end)

    log =
      capture_log(fn ->
        caller =
          Task.async(fn ->
            Process.flag(:trap_exit, true)
            Process.group_leader(self(), deaf)
            answers = for _ <- 1..3, do: say("unheard")
            {answers, Process.info(self(), :messages)}
          end)

        assert Task.await(caller, 60_000) == {List.duplicate("unheard", 3), {:messages, []}}
      end)

    assert length(String.split(log, "does not answer")) == 2
    send(deaf, :stop)
  end

  # A process that makes a call, and stays.
  defp caller(leader, function, args) do
    test = self()

    caller =
      spawn_link(fn ->
        Process.group_leader(self(), leader)
        SnakeBridge.call!("talker", function, args, pool: :single)
        send(test, {:called, self()})
        receive do: (:stop -> :ok)
      end)

    assert_receive {:called, ^caller}
    caller
  end

  # Returns when all that threads have said so far was said here.
  defp say_late do
    {:ok, leader} = StringIO.open("")
    caller = caller(leader, "say_when_open", ["last"])
    SnakeBridge.call!("talker", "open_gate", [], pool: :single)
    assert eventually(fn -> StringIO.contents(leader) == {"", "last\n"} end)
    send(caller, :stop)
  end

  test "records reach Logger with their level, their place and their call" do
    log =
      capture_log([metadata: :all], fn ->
        SnakeBridge.call!("talker", "record", [30, "%d of %s", 3, "four"])
      end)

    assert log =~ "[warning] 3 of four" or log =~ "[warn] 3 of four"
    assert log =~ "python_logger=talker"
    assert log =~ "python_function=record"
    assert log =~ "pid=#{:erlang.pid_to_list(self())}"
    assert log =~ "session_id=#{SnakeBridge.current_session()}"
  end

  test "every level has its counterpart, and exceptions bring their traceback" do
    for {level, name} <- [{10, nil}, {20, nil}, {30, "warn"}, {40, "error"}, {50, "critical"}] do
      log = capture_log(fn -> SnakeBridge.call!("talker", "record", [level, "said"]) end)
      if name, do: assert(log =~ "[#{name}" and log =~ "said"), else: refute(log =~ "said")
    end

    assert capture_log(fn -> SnakeBridge.call!("talker", "record_failure") end) =~
             "no number\nTraceback (most recent call last)"
  end

  test "warnings reach Logger with their category" do
    log =
      capture_log(fn -> SnakeBridge.call!("builtins", "exec", ["import talker\ntalker.warn('careful')"]) end)

    assert log =~ "UserWarning: careful"
    assert log =~ "[warn"
  end

  test "a group leader that has ended fails no call" do
    {:ok, leader} = StringIO.open("")

    Task.async(fn ->
      Process.group_leader(self(), leader)
      SnakeBridge.call!("math", "sqrt", [4])
      StringIO.close(leader)
      assert say("to nobody") == "to nobody"
    end)
    |> Task.await(60_000)
  end

  test "what a generator prints when its stream is left reaches the reader" do
    text =
      capture_io(fn ->
        assert SnakeBridge.stream("talker", "items_and_last_words", [100_000]) |> Enum.take(2) == [0, 1]
      end)

    assert text == "closed\n"
  end

  test "last words of a worker reach the caller: stderr, errors, and what was flushed" do
    log =
      capture_log(fn ->
        assert capture_io(:stderr, fn ->
                 assert capture_io(fn ->
                          assert {:error, %{category: :worker_crash}} =
                                   SnakeBridge.call("talker", "last_words", ["oh"], pool: :single)
                        end) == "oh"
               end) == "oh err\n"
      end)

    assert log =~ "[error] oh"
  end

  test "who speaks for the threads of a worker ends with it, however it ends" do
    options = Application.get_env(:snakebridge, :pools)[:single]
    start_supervised!({SnakeBridge.Pool, [name: :spoken_for] ++ options})
    {:ok, pid} = SnakeBridge.call("os", "getpid", [], pool: :spoken_for)
    {_, speaker} = connection_and_speaker(:spoken_for)

    log =
      capture_log(fn ->
        SnakeBridge.Test.Processes.kill(pid)
        assert eventually(fn -> not Process.alive?(speaker) end)

        assert eventually(fn ->
                 match?([%{status: :ready, generation: 2}], SnakeBridge.Pool.info(:spoken_for))
               end)

        {connection, speaker} = connection_and_speaker(:spoken_for)
        Process.exit(connection, :kill)
        assert eventually(fn -> not Process.alive?(speaker) end)
      end)

    refute log =~ "terminating"
  end

  defp connection_and_speaker(pool) do
    [worker] = SnakeBridge.Pool.Placement.ready(pool)
    connection = linked(worker.pid, SnakeBridge.Pool.Control)
    {connection, linked(connection, SnakeBridge.Output.Late)}
  end

  defp linked(pid, module) do
    {:links, links} = Process.info(pid, :links)
    Enum.find(links, &(is_pid(&1) and match?({^module, _, _}, :proc_lib.translate_initial_call(&1))))
  end

  test "a flood takes few requests of the group leader, which may be far away" do
    test = self()
    leader = spawn_link(fn -> listen(test) end)

    call =
      Task.async(fn ->
        Process.group_leader(self(), leader) && SnakeBridge.call!("talker", "say_many", ["n", 30_000])
      end)

    Task.await(call, 60_000)
    send(leader, {:done, self()})
    assert_receive {:heard, requests, size}
    assert size > 150_000
    assert requests < 1_000
  end

  # A group leader that counts what it is asked to write.
  defp listen(test, requests \\ 0, size \\ 0) do
    receive do
      {:io_request, from, ref, {:put_chars, :unicode, text}} ->
        send(from, {:io_reply, ref, :ok})
        listen(test, requests + 1, size + byte_size(text))

      {:done, to} ->
        send(to, {:heard, requests, size})
    end
  end

  test "a flood arrives whole" do
    text = capture_io(fn -> SnakeBridge.call!("talker", "say_many", ["n", 30_000]) end)
    assert text == Enum.map_join(0..29_999, &"n #{&1}\n")
  end

  describe "the option output:" do
    setup context do
      {:ok, options} = Application.fetch_env!(:snakebridge, :pools) |> Keyword.fetch(:single)
      name = :"output_#{context.mode}"
      start_supervised!({SnakeBridge.Pool, options ++ [name: name, output: context.mode]})
      %{pool: name}
    end

    @tag mode: :logger
    test "logger: all of it goes to Logger, line by line", %{pool: pool} do
      log =
        capture_log([metadata: :all], fn ->
          assert capture_io(fn -> say("to the log", pool: pool) end) == ""

          assert capture_io(:stderr, fn -> SnakeBridge.call!("talker", "say_both", ["both"], pool: pool) end) ==
                   ""
        end)

      assert log =~ "[info] to the log"
      assert log =~ "pid=#{:erlang.pid_to_list(self())}"
      assert length(String.split(log, "both\n")) == 3

      # Logger cuts what is longer than 8 KiB.
      text = Enum.map_join(1..3_000, "\n", &"line #{&1}.") <> "\n" <> String.duplicate("€", 20_000)
      log = capture_log(fn -> say(text, pool: pool) end)
      for n <- [1, 2, 1_499, 3_000], do: assert(log =~ "[info] line #{n}.\n")
      assert length(String.split(log, "€")) == 20_001
    end

    @tag mode: :worker
    test "worker: Python prints by itself, and the pool logs it", %{pool: pool} do
      # The line comes through a pipe, in its own time.
      :ok = :logger.add_handler(:by_itself, __MODULE__.Forward, %{config: %{to: self()}})
      on_exit(fn -> :logger.remove_handler(:by_itself) end)
      assert capture_io(fn -> say("by itself", pool: pool) end) == ""
      SnakeBridge.call!("sys", "stdout.flush", [], pool: pool)
      line = "python[#{pool}:1] by itself"
      assert_receive {:logged, ^line}
    end
  end

  test "another value of output: is refused" do
    assert_raise ArgumentError, ~r/must be :caller, :logger or :worker, not :screen/, fn ->
      SnakeBridge.Output.mode(output: :screen)
    end
  end
end
