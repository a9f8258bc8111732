defmodule SnakeBridge.PolicyTest do
  # Starts pools of its own.
  use ExUnit.Case, async: true

  alias SnakeBridge.Pool
  alias SnakeBridge.Pool.Policy

  defp pool(name, policy) do
    options = Application.get_env(:snakebridge, :pools)[:single]
    start_supervised!({Pool, Keyword.merge(options, name: name, policy: policy)})
    [pool: name]
  end

  test "a pool refuses by default what runs text as code, under every name" do
    on = pool(:policy_default, nil)

    for {module, function, args} <- [
          {"builtins", "eval", ["1"]},
          {"posix", "system", ["true"]},
          {"math", "__dict__", []}
        ] do
      assert {:error, error} = SnakeBridge.call(module, function, args, on)
      assert error.category == :permission_denied
      assert error.outcome == :not_started
      assert error.message =~ "allow"
    end

    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], on)

    assert {:ok, counter} =
             SnakeBridge.call("collections", "Counter", [["a", "a"]], on ++ [__runtime__: [result: :ref]])

    assert {:ok, 1} = SnakeBridge.call_method(counter, "__len__", [])
    assert {:error, %{category: :permission_denied}} = SnakeBridge.call_method(counter, "__reduce__", [])
    assert {:error, %{category: :permission_denied}} = SnakeBridge.get(counter, "__dict__")
  end

  test "a listed pool allows what it lists" do
    on = pool(:policy_listed, base: :listed, allow: ["math.*"], deny: ["math.cos"])
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], on)

    for {module, function} <- [{"math", "cos"}, {"os", "getpid"}] do
      assert {:error, %{category: :permission_denied}} = SnakeBridge.call(module, function, [1], on)
    end
  end

  test "every form of the option becomes arguments, and what is none says so" do
    assert Policy.arguments([]) == []
    assert Policy.arguments(policy: :open) == ["--policy", "open"]
    assert Policy.arguments(policy: "/p.toml") == ["--policy", "/p.toml"]

    assert Policy.arguments(policy: [file: "/p.toml", allow: ["a.b"], deny: ["-c"]]) ==
             ["--policy", "/p.toml", "--allow=a.b", "--deny=-c"]

    for wrong <- [
          :closed,
          3,
          [base: :closed],
          [base: :open, file: "x"],
          [alow: []],
          [allow: "a"],
          [allow: [1]]
        ] do
      assert_raise ArgumentError, ~r/:listed/, fn -> Policy.arguments(policy: wrong) end
    end
  end
end
