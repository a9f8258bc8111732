defmodule SnakeBridge.UserTypesLiveTest do
  # Not async: types are registered for the whole node.
  use ExUnit.Case, async: false

  alias SnakeBridge.{Error, Extension, Pool, SessionManager, Types}
  alias SnakeBridge.Pool.Slots
  alias SnakeBridge.Test.Point

  setup do
    before = Types.registered()
    :persistent_term.put(Types, %{})
    on_exit(fn -> :persistent_term.put(Types, before) end)
    # Its import registers the classes.
    SnakeBridge.get!("geometry", "__name__")
    :ok
  end

  test "a registered dataclass and a struct map onto each other" do
    Types.register("test.point", Point)
    assert SnakeBridge.call!("geometry", "moved", [%Point{x: 1.0, y: 2.0}, 0.5]) == %Point{x: 1.5, y: 2.5}
    assert SnakeBridge.call_method!(%Point{x: 1.0, y: 2.0}, :moved, [1]) == %Point{x: 2.0, y: 3.0}
  end

  test "a side that does not know the type keeps it as it is" do
    assert %Extension{tag: "test.point", value: %{"x" => 1, "y" => 1}} =
             point = SnakeBridge.call!("geometry", "moved", [%Point{x: 0, y: 0}, 1])

    assert %Extension{value: %{"x" => 2}} = SnakeBridge.call!("geometry", "moved", [point, 1])
  end

  test "a registered exception comes by value" do
    Types.register("test.point", Point)
    Types.register("test.out_of_field", fn [message, point] -> {:out_of_field, message, point} end)

    assert SnakeBridge.call!("geometry", "judged", [%Point{x: 9, y: 9}]) ==
             {:out_of_field, "too far", %Point{x: 9, y: 9}}
  end

  test "a loader that throws costs nobody but the one whose value it is" do
    Types.register("test.point", fn _ -> throw(:snag) end)
    points = [[%Point{x: 1.0, y: 2.0}, 2]]
    snag = &match?({:error, %Error{category: :decode_error}}, &1)
    assert snag.(SnakeBridge.stream("builtins", "iter", points, [], &{:seen, &1}))
    assert_raise Error, ~r/snag/, fn -> SnakeBridge.stream("builtins", "iter", points) |> Enum.to_list() end
    number = SessionManager.number()
    assert Enum.flat_map(Slots.workers(), &Slots.held(&1.slots, number)) == []

    # What comes by itself is read by a process on which all calls of the worker depend.
    Types.register("test.point", fn _ -> exit(:snag) end)
    workers = for worker <- Pool.info(), do: worker.os_pid

    code = """
    import threading, geometry
    from bridge_adapter import elixir

    def say():
        elixir.send(to, geometry.Point(1.0, 2.0))
        elixir.send(to, "said")

    threading.Thread(target=say).start()
    """

    SnakeBridge.call!("builtins", "exec", [code, %{"to" => self()}])
    assert_receive "said"
    assert workers == for(worker <- Pool.info(), do: worker.os_pid)
  end
end
