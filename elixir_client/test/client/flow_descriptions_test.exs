defmodule SnakeBridge.FlowDescriptionsTest do
  @moduledoc "Descriptions of flows that are wrong before Python sees them."
  use ExUnit.Case, async: true

  import SnakeBridge.Flow, only: [spec: 1, slot: 1, term: 3, op: 2]

  alias SnakeBridge.Flow

  test "an improper list is refused with its place and the cure" do
    for {wrong, place} <- [
          {fn ->
             spec(slots: %{x: [shape: {3}]}, terms: [%{type: :l1, params: [edges: [[0, 1], [1 | 2]]]}])
           end, "terms[0].params.edges[1]: [1 | 2]"},
          {fn -> spec(terms: [:l1 | :x]) end, "terms: [:l1 | :x]"},
          {fn -> slot(value: [1.0 | 2.0]) end, "value: [1.0 | 2.0]"},
          {fn -> term(:l1, [:x | :y], []) end, "variable: [:x | :y]"},
          {fn -> op(:stack, of: [[kind: :identity] | :rest]) end, "of: [[kind: :identity] | :rest]"},
          {fn -> op(:dense, [{:matrix, 1} | :rest]) end, "[{:matrix, 1} | :rest]"},
          {fn -> Flow.compile(%{terms: [], slots: {:x, [1 | 2]}}) end, "slots[1]: [1 | 2]"},
          {fn -> Flow.run(%{}, certified: [config: [:tuning | true]]) end,
           "certified.config: [:tuning | true]"}
        ] do
      error = assert_raise(ArgumentError, wrong)
      assert String.starts_with?(error.message, place <> " is an improper list")
      assert error.message =~ "end it with ]"
    end
  end

  test "a key that is said twice is told with its place" do
    assert_raise ArgumentError, ~r/^terms\[1\]\.params: the key "levels" is said twice; say it once$/, fn ->
      spec(terms: [%{}, %{params: %{:levels => 1, "levels" => 2}}])
    end
  end

  test "options are said once, flags are flags, and runs have names" do
    for {wrong, told} <- [
          {fn -> Flow.run(%{}, iterations: 1, iterations: 2) end,
           "the option :iterations is said twice; say it once"},
          {fn -> Flow.run(%{}, idempotent: "yes") end, "idempotent: is true or false, not \"yes\""},
          {fn -> Flow.stream(%{}, record: 1) end, "record: is true or false, not 1"},
          {fn -> Flow.start(%{}, run_id: 7) end, "a run is known by its name, a text, not by 7"},
          {fn -> Flow.cancel(nil) end, "a run is known by its name, a text, not by nil"},
          {fn -> Flow.resume({:r}, %{}) end, "a run is known by its name, a text, not by {:r}"}
        ],
        do: assert_raise(ArgumentError, told, wrong)
  end

  test "a pool that is no atom is not there" do
    assert {:error, %SnakeBridge.Error{category: :unavailable, message: message}} =
             Flow.cancel("r", pool: "default")

    assert message =~ ~s(there is no pool "default"; the pools are)
  end

  test "lists of all kinds keep their order and their length" do
    pairs = [{"a", 1}, {:b, 2}]
    assert spec(terms: [], symmetries: []) == %{"terms" => [], "symmetries" => []}

    assert op(:custom, of: pairs, to: [{1, [2, {3}]}]) == %{
             "kind" => "custom",
             "of" => [["a", 1], ["b", 2]],
             "to" => [[1, [2, [3]]]]
           }
  end
end
