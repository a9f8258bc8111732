defmodule SnakeBridge.CallbacksTest do
  use ExUnit.Case, async: false

  alias SnakeBridge.{CallbackRegistry, Error}

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
      |> Task.await(5_000)
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
    |> Task.await()

    assert Enum.any?(1..100, fn _ ->
             Process.sleep(10) &&
               match?(
                 {:error, %Error{category: :callback_gone}},
                 SnakeBridge.call("sample", "call_kept", [1], @one)
               )
           end)

    call!("drop_kept", [])
  end

  test "objects reach a function as refs, and functions come back as themselves" do
    acc = SnakeBridge.call!("sample", "Acc", [3], @one)
    assert 4 == call!("apply", [fn ref -> SnakeBridge.call!(ref, :add, [1]) end, acc])
    function = fn -> :mine end
    assert function == call!("identity", [function])
  end
end
