defmodule SnakeBridge.Generator.NamesTest do
  use ExUnit.Case, async: true

  alias SnakeBridge.Generator.{Library, Names}

  test "modules of libraries, and none of Elixir's own" do
    assert Names.root("sklearn.linear_model") == "Sklearn.LinearModel"
    assert Names.root("_private") == "Private"
    assert Names.root("PIL") == "PIL"
    assert Names.root("time") == "PyTime"
    assert Names.root("enum") == "PyEnum"
  end

  test "files, also of names that differ in capitals only" do
    assert Names.file("Sklearn.LinearModel.Ridge") == "sklearn/linear_model/ridge.ex"

    assert Names.files(["Abc", "ABC"]) == %{"ABC" => "abc.ex", "Abc" => "abc_2.ex"}
  end

  test "configurations" do
    assert [
             %{name: "json", root: "Json", only: false},
             %{name: "numpy", only: true, symbols: ["sum"], stream: ["f"]}
           ] = Library.parse([:json, numpy: [only: [:sum], stream: ["f"]]])

    assert [%{name: "jax.numpy", root: "Jnp", all: true}] =
             Library.parse([{"jax.numpy", module: Jnp, all: true}])

    for {wrong, said} <- [
          {[numpy: [onyl: []]], "known are module:, all:"},
          {[:numpy, "numpy"], "twice"},
          {[time: [module: "Time"]], "PyTime"},
          {[time: [module: "time"]], "no module name"},
          {%{}, "must be a list"},
          {[1], "an entry is a name"}
        ] do
      assert assert_raise(ArgumentError, fn -> Library.parse(wrong) end).message =~ said
    end
  end

  test "a module belongs to the library with the longest root" do
    libraries = Library.parse(["jax", "jax.numpy"])
    assert Library.owner(libraries, "Jax.Numpy.Linalg").name == "jax.numpy"
    assert Library.owner(libraries, "Jax.Lax").name == "jax"
    assert Library.owner(libraries, "Jaxx") == nil
  end
end
