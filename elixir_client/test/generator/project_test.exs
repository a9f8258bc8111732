defmodule SnakeBridge.Generator.ProjectTest do
  @moduledoc """
  A project as users have it: this repository as a path dependency, the mix compiler, Python for real. Its steps build on each other, so they are one
  test.
  """
  use ExUnit.Case, async: true

  @python System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")

  setup_all do
    directory = Path.join(System.tmp_dir!(), "snakebridge-project-#{System.unique_integer([:positive])}")
    for folder <- ["lib", "config"], do: File.mkdir_p!(Path.join(directory, folder))
    on_exit(fn -> File.rm_rf!(directory) end)

    # The dependency as it is built already: compiling it again would take longer than all of this.
    built = Path.join(directory, "_build/test/lib")
    File.mkdir_p!(built)
    {_, 0} = System.cmd("cp", ["-a", Mix.Project.app_path(), Path.join(built, "snakebridge")])
    %{directory: directory}
  end

  defp write(directory, path, text), do: File.write!(Path.join(directory, path), text)

  # As if it had been there for long: what is newer than the dependency has Mix compile that again, all of it.
  defp settings(directory, path, text) do
    write(directory, path, text)
    File.touch!(Path.join(directory, path), {{2020, 1, 1}, {0, 0, 0}})
  end

  defp mix(directory, arguments, env \\ []) do
    System.cmd("mix", arguments,
      cd: directory,
      env: [{"MIX_ENV", "test"}, {"MIX_BUILD_PATH", nil}, {"SNAKEBRIDGE_PYTHON", nil} | env],
      stderr_to_stdout: true
    )
  end

  defp config(directory, libraries) do
    settings(directory, "config/config.exs", """
    import Config
    config :snakebridge, libraries: #{inspect(libraries)}, python: #{inspect(@python)}
    config :snakebridge,
      pools: [default: [size: 1, python: #{inspect(@python)}, env: [{"PYTHONPATH", Path.expand("../priv", __DIR__)}]]]
    """)
  end

  # What lies there, and when it was written.
  defp generated(directory) do
    for pattern <- ["lib/snakebridge_generated/**/*.ex", "snakebridge.*"],
        path <- Path.wildcard(Path.join(directory, pattern)),
        into: %{} do
      {Path.relative_to(path, directory), {File.stat!(path).mtime, File.read!(path)}}
    end
  end

  defp contents(files), do: Map.new(files, fn {path, {_, text}} -> {path, text} end)

  test "symbols without a library are refused: everything would be described anew" do
    assert_raise Mix.Error, ~r/about the libraries that are named/, fn ->
      Mix.Tasks.Snakebridge.Gen.run(["--only", "dumps"])
    end
  end

  test "in an umbrella one app has the wrappers of what all of them use", %{directory: directory} do
    root = Path.join(directory, "umbrella")
    built = Path.join(root, "_build/test/lib")

    for folder <- [built | Enum.map(~w(apps/wraps/lib apps/web/lib config), &Path.join(root, &1))],
        do: File.mkdir_p!(folder)

    {_, 0} = System.cmd("cp", ["-a", Mix.Project.app_path(), Path.join(built, "snakebridge")])

    settings(root, "mix.exs", """
    defmodule Umbrella.MixProject do
      use Mix.Project
      def project, do: [apps_path: "apps", version: "0.1.0"]
    end
    """)

    settings(root, "config/config.exs", """
    import Config
    config :snakebridge,
      libraries: [:json, :math], sources: [Path.expand("../apps/*/lib", __DIR__)], python: #{inspect(@python)}
    """)

    for {app, extra, dep} <- [
          {"wraps", "compilers: [:snakebridge] ++ Mix.compilers(),",
           "{:snakebridge, path: #{inspect(File.cwd!())}}"},
          {"web", "", "{:wraps, in_umbrella: true}"}
        ] do
      settings(root, "apps/#{app}/mix.exs", """
      defmodule #{Macro.camelize(app)}.MixProject do
        use Mix.Project
        def project do
          [app: :#{app}, version: "0.1.0", #{extra} build_path: "../../_build", config_path: "../../config/config.exs",
           deps_path: "../../deps", lockfile: "../../mix.lock", deps: [#{dep}]]
        end
      end
      """)
    end

    write(root, "apps/wraps/lib/wraps.ex", "defmodule Wraps do\n  def f(x), do: Json.dumps!(x)\nend\n")
    write(root, "apps/web/lib/web.ex", "defmodule Web do\n  def f(x), do: Math.sqrt!(x)\nend\n")
    {output, status} = mix(root, ["compile", "--warnings-as-errors"])
    assert {status, output} == {0, output}

    generated = Path.wildcard(Path.join(root, "**/snakebridge_generated/*.ex"))

    assert generated |> Enum.map(&Path.relative_to(&1, root)) |> Enum.sort() ==
             ["apps/wraps/lib/snakebridge_generated/json.ex", "apps/wraps/lib/snakebridge_generated/math.ex"]

    assert {output, 0} = mix(root, ["compile"], [{"SNAKEBRIDGE_OFFLINE", "1"}])
    refute output =~ "Generated"
    assert {output, 0} = mix(root, ["do", "--app", "wraps", "snakebridge.verify"])
    assert output =~ "all 2 functions are as generated"
    assert {output, 0} = mix(root, ["snakebridge.gen"])
    assert output =~ "Everything is up to date"

    assert Path.wildcard(Path.join(root, "**/snakebridge.lock")) == [
             Path.join(root, "apps/wraps/snakebridge.lock")
           ]
  end

  @source """
  defmodule Demo do
    alias Collections.Counter
    import Json, only: [dumps!: 2]

    def text(x), do: dumps!(x, sort_keys: true)
    def counted(x), do: x |> Counter.new!() |> Map.new()
    def numbers(n), do: Itertools.Count.new_stream(n) |> Enum.take(3)
    def e, do: Math.e!()
    def sqrt, do: &Math.sqrt!/1
  end
  """

  @tag timeout: 180_000
  test "compile, change, verify", %{directory: directory} do
    settings(directory, "mix.exs", """
    defmodule Demo.MixProject do
      use Mix.Project
      def project do
        [app: :demo, version: "0.1.0", compilers: [:snakebridge] ++ Mix.compilers(),
         deps: [{:snakebridge, path: #{inspect(File.cwd!())}}]]
      end
    end
    """)

    libraries = [:json, :math, :collections, :itertools]
    config(directory, libraries)
    write(directory, "lib/demo.ex", @source)

    # Cold: what the sources use is generated, and compiles without a warning.
    {output, status} = mix(directory, ["compile", "--warnings-as-errors"])
    assert {status, output} == {0, output}
    assert output =~ "Generated 4 files of Python wrappers"
    refute output =~ "warning"
    first = generated(directory)

    assert Map.keys(first) |> Enum.sort() == [
             "lib/snakebridge_generated/collections/counter.ex",
             "lib/snakebridge_generated/itertools/count.ex",
             "lib/snakebridge_generated/json.ex",
             "lib/snakebridge_generated/math.ex",
             "snakebridge.lock",
             "snakebridge.manifest.exs"
           ]

    program = """
    %{"a" => 2} = Demo.counted(["a", "a"])
    "{\\"a\\": 1, \\"b\\": 2}" = Demo.text(%{"b" => 2, "a" => 1})
    [5, 6, 7] = Demo.numbers(5)
    true = Demo.e() == :math.exp(1)
    4.0 = Demo.sqrt().(16)
    """

    {output, status} = mix(directory, ["run", "-e", program])
    assert {status, output} == {0, output}

    # Warm: Python is not started, nothing is written. A source that is only touched changes nothing.
    broken = [{"SNAKEBRIDGE_OFFLINE", "1"}]
    File.touch!(Path.join(directory, "lib/demo.ex"))
    assert {_, 0} = mix(directory, ["compile"], broken)
    assert generated(directory) == first

    # A fresh checkout: nothing is remembered, and Python is still not needed.
    File.rm!(Path.join(directory, "_build/test/lib/demo/.mix/compile.snakebridge"))
    assert {output, 0} = mix(directory, ["compile"], broken)
    refute output =~ "error"
    assert generated(directory) == first

    # A lock that got lost comes back; what a merge left in one of the files is told at once.
    File.rm!(Path.join(directory, "snakebridge.lock"))
    assert {_, 0} = mix(directory, ["compile"], broken)
    refute File.exists?(Path.join(directory, "snakebridge.lock"))
    assert {_, 0} = mix(directory, ["compile"])
    assert contents(generated(directory)) == contents(first)

    for file <- ["snakebridge.lock", "snakebridge.manifest.exs"] do
      write(directory, file, "<<<<<<< ours\n" <> elem(first[file], 1))
      assert {output, 1} = mix(directory, ["compile"], broken)
      assert output =~ file and output =~ "merge conflict"
      write(directory, file, elem(first[file], 1))
    end

    assert {_, 0} = mix(directory, ["compile"], broken)
    first = generated(directory)

    # What is new cannot be had without Python, and the error says so.
    write(directory, "lib/more.ex", "defmodule More do\n  def f(x), do: Math.cos!(x)\nend\n")
    assert {output, 1} = mix(directory, ["compile"], broken)
    assert output =~ "Math.cos must be described by Python"

    # With Python it is added; unknown names are warnings at their place.
    write(
      directory,
      "lib/more.ex",
      "defmodule More do\n  def f(x), do: Math.cos!(x)\n  def g, do: Math.sqrtt(2)\nend\n"
    )

    assert {output, 0} = mix(directory, ["compile"])
    assert output =~ "sqrtt" and output =~ "sqrt?" and output =~ "lib/more.ex:3"
    second = generated(directory)
    {_, math} = second["lib/snakebridge_generated/math.ex"]
    assert math =~ "def cos!(" and math =~ "def sqrt!("

    assert Map.delete(second, "lib/snakebridge_generated/math.ex") |> Map.drop(["snakebridge.manifest.exs"]) ==
             first |> Map.drop(["lib/snakebridge_generated/math.ex", "snakebridge.manifest.exs"])

    # Said again without asking again.
    assert {output, 0} = mix(directory, ["compile"], broken)
    assert output =~ "lib/more.ex:3"

    # The environment is as it was.
    write(directory, "lib/more.ex", "defmodule More do\n  def f(x), do: Math.cos!(x)\nend\n")
    {output, status} = mix(directory, ["snakebridge.verify"])
    assert {status, output} == {0, output}
    assert output =~ "functions are as generated"

    # And then it is not.
    manifest = Path.join(directory, "snakebridge.manifest.exs")
    lock = Path.join(directory, "snakebridge.lock")
    text = File.read!(manifest)
    File.write!(manifest, String.replace(text, ~r/"cos\(x, \/\)", "\w+"/, ~s("cos(x, y\)", "0")))
    File.write!(lock, File.read!(lock) |> String.replace(~r/\{:python, "[^"]+"\}/, ~s({:python, "3.0.1"})))
    assert {output, 1} = mix(directory, ["snakebridge.verify"])
    assert output =~ "Python 3.0.1 -> 3."
    assert output =~ "~ Math.cos: cos(x, y)\n    now cos(x, /)"

    # Taken over by gen, pruned to what is used, and added to by name.
    write(directory, "lib/more.ex", "defmodule More do\nend\n")
    assert {_, 0} = mix(directory, ["snakebridge.gen", "--prune"])
    refute File.read!(manifest) =~ "cos"
    refute File.read!(lock) =~ "3.0.1"
    assert {output, 0} = mix(directory, ["snakebridge.gen", "string", "--only", "capwords", "--dry-run"])
    assert output =~ "PyString (lib/snakebridge_generated/py_string.ex): capwords"
    refute File.exists?(Path.join(directory, "lib/snakebridge_generated/py_string.ex"))
    assert {output, 1} = mix(directory, ["snakebridge.gen", "string", "--only", "capword"])
    assert output =~ "capwords"

    # The project's own Python is followed as it changes; where it is broken, its file and line are told.
    config(directory, [:ours | libraries])
    File.mkdir_p!(Path.join(directory, "priv"))
    write(directory, "priv/ours.py", "def area(a): ...\n")

    write(
      directory,
      "lib/more.ex",
      "defmodule More do\n  def f, do: Ours.area(1, 2)\n  def g, do: Ours.later()\nend\n"
    )

    assert {output, 0} = mix(directory, ["compile"])
    assert output =~ "has no function 'later'"
    write(directory, "priv/ours.py", "def area(a, b): ...\n\ndef later(): ...\n")
    {output, status} = mix(directory, ["compile", "--warnings-as-errors"])
    assert {status, output} == {0, output}
    assert File.read!(Path.join(directory, "lib/snakebridge_generated/ours.ex")) =~ "def area(a, b, opts"
    write(directory, "priv/ours.py", "def area(a, b): ...\ndef later(:\n")
    assert {output, 1} = mix(directory, ["compile"])
    assert output =~ "ours cannot be imported: SyntaxError" and output =~ "priv/ours.py:2"
    assert {_, 0} = mix(directory, ["compile"], broken)

    # A library that cannot be imported is an error where it is used.
    config(directory, [:not_a_library | libraries])
    write(directory, "lib/more.ex", "defmodule More do\n  def f, do: NotALibrary.f()\nend\n")
    assert {output, 1} = mix(directory, ["compile"])
    assert output =~ "error: " and output =~ "not_a_library" and output =~ "lib/more.ex:2"
  end

  @tag timeout: 120_000
  test "what a run leaves open the next one asks for, and what moves or goes leaves nothing", %{
    directory: directory
  } do
    root = Path.join(directory, "open")
    built = Path.join(root, "_build/test/lib")
    for folder <- [built | Enum.map(~w(lib config), &Path.join(root, &1))], do: File.mkdir_p!(folder)
    {_, 0} = System.cmd("cp", ["-a", Mix.Project.app_path(), Path.join(built, "snakebridge")])

    settings(root, "mix.exs", """
    defmodule Open.MixProject do
      use Mix.Project
      def project do
        [app: :open, version: "0.1.0", compilers: [:snakebridge] ++ Mix.compilers(),
         deps: [{:snakebridge, path: #{inspect(File.cwd!())}}]]
      end
    end
    """)

    settings(root, "config/config.exs", """
    import Config
    config :snakebridge, libraries: [:json, :math], python: #{inspect(@python)}, generated: System.get_env("OUT")
    config :snakebridge, pools: [default: [size: 1, python: #{inspect(@python)}]]
    """)

    offline = [{"SNAKEBRIDGE_OFFLINE", "1"}]

    files = fn ->
      root |> Path.join("lib/**/*.ex") |> Path.wildcard() |> Enum.map(&Path.relative_to(&1, root))
    end

    # What an import brings may be anything, so that it is missing is no error without Python; with Python it is asked for.
    write(root, "lib/open.ex", "defmodule Open do\n  import Json\n  def f(x), do: dumps!(x)\nend\n")
    assert {output, 1} = mix(root, ["compile"], offline)
    assert output =~ "module Json is not loaded"
    {output, status} = mix(root, ["compile", "--warnings-as-errors"])
    assert {status, output} == {0, output}

    # What must not be asked anew is kept.
    assert {_, 0} = mix(root, ["compile", "--force"], offline)
    assert files.() == ["lib/open.ex", "lib/snakebridge_generated/json.ex"]

    # A task that fails has not answered what the sources ask for meanwhile.
    write(root, "lib/open.ex", "defmodule Open do\n  def f(x), do: Math.sinh!(x)\nend\n")
    assert {output, 1} = mix(root, ["snakebridge.gen", "no_such_library"])
    assert output =~ "no_such_library cannot be imported"
    {output, status} = mix(root, ["compile", "--warnings-as-errors"])
    assert {status, output} == {0, output}

    # Modules in two folders would be there twice.
    {output, status} = mix(root, ["run", "-e", "0.0 = Open.f(0)"], [{"OUT", "lib/wrapped"} | offline])
    assert {status, output} == {0, output}
    refute output =~ "redefining"
    assert files.() == ["lib/open.ex", "lib/wrapped/json.ex", "lib/wrapped/math.ex"]

    # Nothing is used any more.
    write(root, "lib/open.ex", "defmodule Open do\nend\n")
    {output, status} = mix(root, ["compile", "--force"])
    assert {status, output} == {0, output}
    assert files.() == ["lib/open.ex"]
    refute File.read!(Path.join(root, "snakebridge.manifest.exs")) =~ "sinh"
  end
end
