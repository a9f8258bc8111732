defmodule SnakeBridge.Generator.ScannerTest do
  use ExUnit.Case, async: true

  alias SnakeBridge.Generator.Scanner

  defp uses(source, roots \\ ["Numpy", "Sklearn"]) do
    for use <- Scanner.scan(source, roots),
        do: {use.module, use.function, use.line} |> then(&if(use.optional, do: {:maybe, &1}, else: &1))
  end

  test "calls by full name, with bang, piped and captured" do
    assert uses("""
           defmodule A do
             def f(x), do: Numpy.sum(x) + Numpy.mean!(x)
             def g(x), do: x |> Numpy.Linalg.norm()
             def h, do: {&Numpy.sin/1, &Numpy.cos(&1)}
           end
           """) == [
             {"Numpy", "sum", 2},
             {"Numpy", "mean", 2},
             {"Numpy.Linalg", "norm", 3},
             {"Numpy", "sin", 4},
             {"Numpy", "cos", 4}
           ]
  end

  test "aliases: plain, as:, several at once, in their scope only" do
    assert uses("""
           defmodule A do
             alias Numpy, as: Np
             alias Sklearn.{LinearModel.Ridge, Svm}
             require Numpy.Fft, as: F
             def f, do: Np.pi() ; def g, do: Ridge.new()
             def h, do: Svm.SVC.new()
             def i, do: F.fft([])
             def j do
               alias Numpy.Random
               Random.rand()
             end
             def k, do: Random.rand()
           end
           """) == [
             {"Numpy", "pi", 5},
             {"Sklearn.LinearModel.Ridge", "new", 5},
             {"Sklearn.Svm.SVC", "new", 6},
             {"Numpy.Fft", "fft", 7},
             {"Numpy.Random", "rand", 10}
           ]
  end

  test "imports: with only: the named ones, without it the local calls that may be theirs" do
    found =
      uses("""
      defmodule A do
        import Numpy, only: [sum: 1, mean: 2]
        import Sklearn.Metrics
        def f(x), do: x |> r2_score(length(x)) |> Enum.map(&zero_one_loss/2)
      end
      """)

    assert {"Numpy", "sum", 2} in found and {"Numpy", "mean", 2} in found
    assert {:maybe, {"Sklearn.Metrics", "r2_score", 4}} in found
    assert {:maybe, {"Sklearn.Metrics", "zero_one_loss", 4}} in found
    refute {:maybe, {"Sklearn.Metrics", "length", 4}} in found
  end

  test "delegation, apply, functions by name, attributes that name a module" do
    assert uses("""
           defmodule A do
             @np Numpy
             defdelegate sum(x), to: Numpy
             defdelegate total(x), to: Numpy, as: :sum
             def f(x), do: apply(Numpy, :std, [x])
             def g(x), do: Task.async(Numpy, :var, [x])
             def h, do: {Numpy, :dot, []}
             def i(x), do: @np.cross(x, x)
           end
           """) == [
             {"Numpy", "sum", 3},
             {"Numpy", "sum", 4},
             {"Numpy", "std", 5},
             {"Numpy", "var", 6},
             {"Numpy", "dot", 7},
             {"Numpy", "cross", 8}
           ]
  end

  test "aliases with further options" do
    assert uses("""
           defmodule A do
             alias Numpy, as: N, warn: false
             alias Numpy.Linalg, warn: false
             alias Numpy.{Fft}, warn: false
             def f(x), do: {N.sum(x), Linalg.norm(x), Fft.fft(x)}
           end
           """) == [{"Numpy", "sum", 5}, {"Numpy.Linalg", "norm", 5}, {"Numpy.Fft", "fft", 5}]
  end

  test "inside quoted code, and not a module of the project that is called alike" do
    assert uses("""
           defmodule A do
             defmodule Numpy do
               def sum(x), do: x
             end
             def f(x), do: Numpy.sum(x)
             def g(x), do: Elixir.Numpy.max(x)
           end
           defmodule B do
             defmacro __using__(_), do: quote(do: (alias Numpy, as: N; def g, do: N.min([1])))
           end
           """) == [{"Numpy", "max", 6}, {"Numpy", "min", 9}]
  end

  test "what is no Elixir has no uses, and so have files that name no library" do
    assert uses("defmodule Numpy do (") == []
    assert uses("Enum.map([1], & &1)") == []
    assert uses("NumpyLike.sum(1)") == []
  end
end
