defmodule SnakeBridge.StreamsTest do
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.Error

  defp log, do: SnakeBridge.call!("sample", "take_log")

  setup do
    {:ok, session} = SnakeBridge.create_session()
    on_exit(fn -> SnakeBridge.close_session(session) end)
    {:ok, session: session}
  end

  test "a lazy stream gives all items in order" do
    assert Enum.to_list(SnakeBridge.stream("sample", "gen", [100_000])) == Enum.to_list(0..99_999)
    assert Enum.to_list(SnakeBridge.stream("sample", "agen", [3])) == [0, 1, 2]
  end

  test "a stream that is left closes the generator" do
    log()
    assert [0, 1, 2] = SnakeBridge.stream("sample", "gen_forever", ["left"]) |> Enum.take(3)
    assert {"closed", "left"} in log()

    assert_raise RuntimeError, fn ->
      SnakeBridge.stream("sample", "gen_forever", ["raised"]) |> Enum.each(fn _ -> raise "x" end)
    end

    assert {"closed", "raised"} in log()
  end

  test "both callback styles" do
    me = self()
    assert :ok = SnakeBridge.stream("sample", "gen", [3], [], &send(me, {:bare, &1}))
    assert_received {:bare, 0}
    assert_received {:bare, 2}
    assert :ok = SnakeBridge.stream("sample", "gen", [2], callback: &send(me, {:told, &1}))
    assert_received {:told, {:chunk, 1}}
    assert_received {:told, {:done, _}}

    assert {:error, %Error{}} =
             SnakeBridge.stream("sample", "gen_error", [1], callback: &send(me, {:failed, &1}))

    assert_received {:failed, {:chunk, 0}}
    assert_received {:failed, {:error, %Error{message: "boom mid-stream"}}}
    assert :ok = SnakeBridge.stream("sample", "gen_forever", ["halt"], [], fn i -> if i == 5, do: :halt end)

    assert {:error, :enough} =
             SnakeBridge.stream("sample", "gen_forever", ["why"], [], fn _ -> {:halt, :enough} end)
  end

  test "what the generator returns comes with the end" do
    me = self()
    told = [callback: &send(me, &1)]
    assert :ok = SnakeBridge.stream("sample", "gen_returning", [1, %{"tokens" => 1}], told)
    assert_received {:chunk, 0}
    assert_received {:done, %{"tokens" => 1}}
    assert :ok = SnakeBridge.stream("sample", "gen_returning", [1, nil], told)
    assert_received {:done, nil}
    assert :ok = SnakeBridge.stream("sample", "gen_returning", [1, 2], [], &send(me, {:bare, &1}))
    assert Enum.to_list(SnakeBridge.stream("sample", "gen_returning", [2, 3])) == [0, 1]

    halting = fn event -> send(me, event) && :halt end
    assert :ok = SnakeBridge.stream("sample", "gen_returning", [1000, "not reached"], callback: halting)
    assert_received {:done, nil}
  end

  test "an error comes after the items before it" do
    me = self()

    assert_raise Error, ~r/boom mid-stream/, fn ->
      SnakeBridge.stream("sample", "gen_error", [3]) |> Enum.each(&send(me, {:item, &1}))
    end

    assert_received {:item, 2}
  end

  test "the consumer may use the same session between items" do
    total =
      SnakeBridge.stream("sample", "gen", [50])
      |> Enum.map(fn i -> SnakeBridge.call!("operator", "mul", [i, 2]) end)
      |> Enum.sum()

    assert total == 49 * 50
  end

  test "held streams and refs are enumerable, and the next reader goes on where the last stopped" do
    held = SnakeBridge.call!("sample", "gen", [10])
    assert [0, 1, 2] = Enum.take(held, 3)
    assert {:ok, 3} = SnakeBridge.stream_next(held)
    assert [4, 5] = Enum.take(held, 2)
    assert [6, 7, 8, 9] = Enum.to_list(held)
    assert :done = SnakeBridge.stream_next(held)

    deque = SnakeBridge.call!("collections", "deque", [[1, 2, 3]])
    assert Enum.count(deque) == 3
    assert Enum.member?(deque, 2)
    assert [1, 2, 3] = Enum.to_list(deque)
  end

  test "a function that a generator calls runs between the items" do
    assert [0, 1, 4] = SnakeBridge.stream("sample", "gen_callback", [fn x -> x * x end, 3]) |> Enum.to_list()
  end

  test "a consumer that is killed ends its stream", %{session: session} do
    me = self()
    log()

    pid =
      spawn(fn ->
        SnakeBridge.in_session(session, fn ->
          SnakeBridge.stream("sample", "gen_forever", ["killed"])
          |> Enum.each(fn i -> if i == 10, do: send(me, :running) && Process.sleep(:infinity) end)
        end)
      end)

    assert_receive :running
    Process.exit(pid, :kill)

    assert eventually(fn -> SnakeBridge.in_session(session, fn -> {"closed", "killed"} in log() end) end)
  end

  test "a held stream goes on after the item at which its reader raised" do
    {:ok, held} = SnakeBridge.call("sample", "gen", [10])
    assert_raise RuntimeError, fn -> Enum.each(held, &if(&1 == 4, do: raise("enough"))) end
    assert Enum.to_list(held) == [5, 6, 7, 8, 9]
  end
end
