defmodule SnakeBridge.CallbacksTest do
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{CallbackRegistry, Error}
  alias SnakeBridge.Exchange.Nesting

  @one [pool: :single]

  defp call!(function, args), do: SnakeBridge.call!("sample", function, args, @one)

  test "functions of any arity, with keyword arguments as a map at the end" do
    assert 42 == call!("apply", [fn -> 42 end])
    assert 6 == SnakeBridge.call!("functools", "reduce", [&(&1 + &2), [1, 2, 3]], @one)
    assert 15 == call!("apply", [fn a, b, c, d, e -> a + b + c + d + e end, 1, 2, 3, 4, 5])

    assert [1, %{"k" => 2}] ==
             SnakeBridge.call!("sample", "apply", [fn a, kw -> [a, kw] end, 1], [k: 2] ++ @one)

    assert {:error, %Error{python_type: "TypeError", message: message}} =
             SnakeBridge.call("sample", "apply", [fn _, _ -> 1 end, 1], @one)

    assert message =~ "expected arity 2, got 1"
  end

  test "calls nest ten deep with one worker" do
    down = fn down, n -> if n == 0, do: 0, else: 1 + call!("apply", [&down.(down, &1), n - 1]) end
    assert 10 == down.(down, 10)
  end

  test "a task inside a callback may call into the same session" do
    session = SnakeBridge.current_session()

    root = fn x ->
      Task.async(fn ->
        SnakeBridge.in_session(session, fn -> SnakeBridge.call!("math", "sqrt", [x], @one) end)
      end)
      |> Task.await(60_000)
    end

    assert 3.0 == call!("apply", [root, 9])
  end

  test "functions that Python keeps work later, from its threads and from coroutines" do
    call!("keep", [fn x -> x * 2 end])
    assert 42 == call!("call_kept", [21])
    assert 3 == call!("apply_in_thread", [&(&1 + 1), 2])
    assert 4 == call!("async_callback", [&(&1 + 1), 3])
    assert 3.0 == call!("apply_in_thread", [fn x -> SnakeBridge.call!("math", "sqrt", [x], @one) end, 9])
  end

  test "a function that Python drops is forgotten here too" do
    call!("drop_kept", [])
    call!("identity", [1])
    before = CallbackRegistry.count()
    for _ <- 1..50, do: call!("apply", [fn -> 1 end])
    call!("identity", [1])
    assert CallbackRegistry.count() <= before + 1
  end

  test "a function that fails is a RuntimeError in Python" do
    for {function, text} <- [
          {fn _ -> raise "boo" end, "boo"},
          {fn _ -> throw(:ball) end, "throw: :ball"},
          {fn _ -> exit(:gone) end, "exit: :gone"}
        ] do
      assert {:error, %Error{category: :callback_error, python_type: "RuntimeError", message: ^text}} =
               SnakeBridge.call("sample", "apply", [function, 1], @one)
    end
  end

  test "a function whose process has ended is gone" do
    {:ok, session} = SnakeBridge.create_session()

    Task.async(fn -> SnakeBridge.in_session(session, fn -> call!("keep", [fn x -> x end]) end) end)
    |> Task.await(60_000)

    gone? = &match?({:error, %Error{category: :callback_gone}}, &1)
    assert eventually(fn -> gone?.(SnakeBridge.call("sample", "call_kept", [1], @one)) end)

    call!("drop_kept", [])
  end

  test "objects reach a function as refs, and functions come back as themselves" do
    acc = SnakeBridge.call!("sample", "Acc", [3], @one)
    assert 4 == call!("apply", [fn ref -> SnakeBridge.call!(ref, :add, [1]) end, acc])
    function = fn -> :mine end
    assert function == call!("identity", [function])
  end

  test "functions that functions gave come back as themselves, all of them" do
    functions = for n <- 1..3, do: fn -> n end
    assert functions == call!("attempts", [&Enum.at(functions, &1), 0, 1, 2])
  end

  test "where dicts come as ordered maps, functions still get keyword arguments as a map, or none" do
    options = [__runtime__: [pool: :single, maps: :ordered]]
    assert 1 == SnakeBridge.call!("sample", "apply", [& &1, 1], options)

    keyed = fn a, keywords -> [a, keywords == %{"k" => 2}] end
    assert [1, true] == SnakeBridge.call!("sample", "apply", [keyed, 1], [k: 2] ++ options)
  end

  describe "what cannot be read or sent" do
    # A pid as the other pool's worker got it: signed, but not for this one. And which lives the workers of the pool are in.
    setup do
      # An earlier test may have killed the worker, which is only just coming back.
      SnakeBridge.call!("math", "sqrt", [4], @one)
      %{foreign: SnakeBridge.call!("builtins", "getattr", [self(), "data"]), before: generations()}
    end

    test "as an argument is an error in Python; the call goes on", %{foreign: foreign, before: before} do
      offered = [&(&1 * 2), foreign, 21]

      for {function, args} <- [{"offer", offered}, {"in_thread", ["offer" | offered]}] do
        assert [
                 "CallbackError: the arguments for the Elixir function cannot be read: an opaque term" <> _,
                 42
               ] = call!(function, args)
      end

      assert ["CallbackError: the arguments" <> _, 42] =
               SnakeBridge.stream("sample", "gen_offer", offered, @one) |> Enum.to_list()

      nested = fn -> call!("offer", [& &1, foreign, 2]) end
      assert ["CallbackError: the arguments" <> _, 2] = call!("apply", [nested])
      assert generations() == before
    end

    test "is the error of a call that lets it pass", %{foreign: foreign, before: before} do
      assert {:error, %Error{category: :callback_error, python_type: "RuntimeError", message: message}} =
               SnakeBridge.call("sample", "apply_opaque", [fn _ -> :never end, foreign], @one)

      assert message =~ "cannot be read: an opaque term came in that was not sent from here"
      assert 3.0 == SnakeBridge.call!("math", "sqrt", [9], @one)
      assert generations() == before
    end

    test "as an item ends its stream, and nothing else", %{foreign: foreign, before: before} do
      assert_raise Error, ~r/an opaque term came in that was not sent from here/, fn ->
        SnakeBridge.stream("sample", "gen_opaque", ["foreign", foreign], @one) |> Enum.take(3)
      end

      assert {"closed", "foreign"} in call!("take_log", [])
      assert 3.0 == SnakeBridge.call!("math", "sqrt", [9], @one)
      assert generations() == before
    end

    test "as a result is an error in Python, from every thread", %{before: before} do
      # Deeper than a message may be; and a struct without its fields, on which its encoder fails.
      deep = fn _ -> Enum.reduce(1..2_000, [], fn _, inner -> [inner] end) end
      broken = fn _ -> Map.delete(%SnakeBridge.Test.Temperature{}, :kelvin) end

      for function <- [deep, broken], {name, args} <- [{"attempts", []}, {"in_thread", ["attempts"]}] do
        assert ["CallbackError: the function's result cannot be sent: " <> _] =
                 call!(name, args ++ [function, 1])
      end

      assert generations() == before
    end

    test "because the function was killed by a link is an error in Python", %{before: before} do
      killed = fn _ -> Process.exit(self(), :kill) && Process.sleep(:infinity) end
      in_use = :ets.tab2list(Nesting.table())

      assert ["CallbackError: the process that ran the Elixir function has died" <> _] =
               call!("in_thread", ["attempts", killed, 1])

      assert :ets.tab2list(Nesting.table()) -- in_use == []

      assert generations() == before
    end
  end

  defp generations, do: for(%{generation: n} <- SnakeBridge.Pool.info(:single), do: n)
end
