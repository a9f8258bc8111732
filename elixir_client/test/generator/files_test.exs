defmodule SnakeBridge.Generator.FilesTest do
  use ExUnit.Case, async: true

  import SnakeBridge.Described

  alias SnakeBridge.Generator.{Environment, Lock, Manifest, Plan, Settings, State, TermFile, Verify, Writer}

  setup do
    directory = Path.join(System.tmp_dir!(), "snakebridge-files-#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    %{directory: directory, path: Path.join(directory, "file")}
  end

  defp described(modules), do: Map.new(modules, &{&1["elixir"], &1})

  defp answer(modules, fields \\ %{}) do
    Map.merge(
      %{
        "modules" => modules,
        "problems" => [],
        "adapter" => "0.1.0",
        "packages" => %{"demo" => "1.0"},
        "python" => %{"version" => "3.11.2", "implementation" => "CPython", "platform" => "linux-x86_64"}
      },
      fields
    )
  end

  test "a manifest comes back, with one entry per line", %{path: path} do
    modules = [
      module("Demo", [function("b"), function("a", [], %{"stream" => true})]),
      class("Demo.C", "C", [])
    ]

    manifest = Manifest.new(%{"demo" => "Demo"}, [{"demo", ""}], described(modules))
    assert Manifest.write(manifest, path)
    refute Manifest.write(manifest, path)
    assert Manifest.read(path) == {:ok, manifest}
    assert path |> File.read!() |> String.split("\n") |> Enum.count(&String.starts_with?(&1, "  {")) == 6

    assert Manifest.covers?(manifest, "Demo", "a_stream")
    refute Manifest.covers?(manifest, "Demo", "b_stream")
    assert Manifest.covers?(manifest, "Demo", "__functions__")
    assert {"Demo", "a_stream", true} in Manifest.uses(manifest, "demo")
  end

  test "a file with a merge conflict or code says what to do", %{path: path} do
    for text <- ["[\n<<<<<<< ours\n]", "[File.rm(\"x\")]", "%{}"] do
      File.write!(path, text)
      assert {:error, message} = TermFile.read(path)
      assert message =~ "run mix snakebridge.gen"
    end

    assert TermFile.read(path <> "absent") == {:ok, []}
  end

  test "a lock comes back; what is locked stays when packages are added", %{path: path} do
    lock = Lock.new(answer([]))
    Lock.write(lock, path)
    assert Lock.read(path) == {:ok, lock}
    newer = Lock.new(answer([], %{"packages" => %{"demo" => "2.0", "more" => "1.1"}, "adapter" => "0.2.0"}))
    assert %{packages: %{"demo" => "1.0", "more" => "1.1"}, adapter: "0.1.0"} = Lock.extend(lock, newer)

    assert Lock.differences(lock, %{newer | platform: "macosx-arm64"}) == [
             {:drift, "bridge-adapter 0.1.0 -> 0.2.0"},
             {:note, "platform linux-x86_64 -> macosx-arm64"},
             {:drift, "demo 1.0 -> 2.0"}
           ]
  end

  test "drift is told by package, symbol and parameter" do
    was = [module("Demo", [function("gone"), function("f", [param("a")], %{"signature" => "f(a)"})])]
    now = function("f", [param("a"), param("b")], %{"signature" => "f(a, b)", "hash" => "fedcba9876543210"})
    manifest = Manifest.new(%{"demo" => "Demo"}, [], described(was))
    lock = Lock.new(answer(was))
    assert Verify.compare(manifest, lock, answer(was)) == []

    present = answer([module("Demo", [now, function("new_one")])], %{"packages" => %{"demo" => "1.1"}})

    assert Verify.compare(manifest, lock, present) == [
             {:drift, "demo 1.0 -> 1.1"},
             {:drift, "~ Demo.f: f(a)\n    now f(a, b)"},
             {:drift, "- Demo.gone: gone(...)"},
             {:drift, "+ Demo.new_one: new_one(...)"}
           ]

    broken = %{
      "kind" => "import",
      "library" => "demo",
      "symbol" => "",
      "message" => "demo cannot be imported"
    }

    assert Verify.compare(manifest, lock, answer([], %{"problems" => [broken]})) == [
             {:drift, "demo cannot be imported"}
           ]
  end

  test "only what changes is written, and only files of ours are removed", %{directory: out} do
    modules = [module("Demo", [function("f")]), class("Demo.C", "C", [])]
    {rendered, written, []} = Writer.write(described(modules), out, [], %{})
    assert Enum.map(written, &Path.relative_to(&1, out)) == ["demo.ex", "demo/c.ex"]
    assert {^rendered, [], []} = Writer.write(described(modules), out, [], rendered)

    # Edited by hand: written again.
    File.write!(Path.join(out, "demo.ex"), "edited, and of another size")
    assert [{:drift, edited}] = Verify.files(described(modules), out, [])
    assert edited =~ "demo.ex is not what would be generated"
    {rendered, [_], []} = Writer.write(described(modules), out, [], rendered)
    assert Verify.files(described(modules), out, []) == []

    File.write!(Path.join(out, "mine.ex"), "defmodule Mine do\nend\n")
    {_, [_], removed} = Writer.write(described(Enum.take(modules, 1)), out, [], rendered)
    assert removed == [Path.join(out, "demo/c.ex")]
    refute File.exists?(Path.join(out, "demo"))
    assert File.exists?(Path.join(out, "mine.ex"))
  end

  test "what is known is not asked again, and answers are joined" do
    [library] = SnakeBridge.Generator.Library.parse([:demo])
    manifest = Manifest.new(%{"demo" => "Demo"}, [], described([module("Demo", [function("f")])]))
    library = %{library | uses: [{"Demo", "f", false}, {"Demo", "g", false}, {"Demo", "h", true}]}

    assert [%{uses: [{"Demo", "g", false}, {"Demo", "h", true}]} = missing] =
             Plan.missing([library], manifest, %{})

    assert Plan.needed?([missing])
    settled = %{{:use, "Demo", "g"} => "no"}
    assert [%{uses: [{"Demo", "h", true}]} = missing] = Plan.missing([library], manifest, settled)
    refute Plan.needed?([missing])

    part = %{"whole" => false}
    one = module("Demo", [function("f"), function("a", [], %{"hash" => "old"})], part)
    two = module("Demo", [function("a", [], %{"hash" => "new"}), function("z")], part)
    joined = Plan.merge(described([one]), [two])["Demo"]["functions"]
    assert Enum.map(joined, &{&1["elixir"], &1["hash"]}) |> Enum.map(&elem(&1, 0)) == ["a", "f", "z"]
    assert Enum.find(joined, &(&1["elixir"] == "a"))["hash"] == "new"
  end

  test "a function that shall be a stream now is asked for again" do
    [library] = SnakeBridge.Generator.Library.parse(demo: [include: ["f"], stream: ["f"]])
    described = described([module("Demo", [function("f")])])
    before = Manifest.new(%{"demo" => "Demo"}, [{"demo", "f"}], described)
    assert [%{symbols: ["f"], stream: ["f"]}] = Plan.missing([library], before, %{})
    asked = Plan.asked([library])
    manifest = Manifest.new(%{"demo" => "Demo"}, asked, described)
    assert Plan.missing([library], manifest, %{}) == []
    [bare] = SnakeBridge.Generator.Library.parse([:demo])
    assert [%{stream: ["f"]}] = Plan.with_manifest([bare], manifest)
  end

  test "the path of a Python is meant from the project; a bare name is looked for", %{directory: directory} do
    python = Path.join(directory, "python")
    File.write!(python, "#!/bin/sh\n")
    File.chmod!(python, 0o755)
    settings = &Settings.new(directory, python: &1)
    from_here = Path.relative_to(directory, "/") |> then(&Path.join([up(), &1, "python"]))
    assert Settings.executable(settings.(from_here)) == {:ok, python}
    assert Settings.executable(settings.("sh")) == {:ok, System.find_executable("sh")}
    assert {:error, message} = Settings.executable(settings.("none/python"))
    assert message =~ Path.expand("none/python") and message =~ "config :snakebridge, python: ..."
  end

  # From the working directory to the root.
  defp up, do: File.cwd!() |> Path.split() |> tl() |> Enum.map_join("/", fn _ -> ".." end)

  test "set-up: what is there is left alone" do
    lock = Lock.new(answer([]))
    assert Environment.install("/venv", lock, %{"demo" => "1.0", "bridge-adapter" => "0.1.0"}, "/half") == []

    assert [{_, "/venv/bin/python", first}, {_, _, second}] =
             Environment.install("/venv", lock, %{"demo" => "0.9"}, "/half")

    assert List.last(first) == "demo==1.0"
    assert List.last(second) == "/half"
    python = System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")

    assert {:ok, %{"bridge-adapter" => _} = installed} =
             Environment.installed(python, ["bridge-adapter", "not-there-at-all"])

    assert map_size(installed) == 1
    assert {:error, message} = Environment.installed("/no/python", [])
    assert message =~ "/no/python cannot be started"
  end

  test "a Python file that is written while it is described counts as changed", %{path: path} do
    now = System.os_time(:second)
    changed? = fn -> State.stale(%State{own: State.noted(%{"ours" => [path]}, now)}) != [] end
    File.write!(path, "")
    assert changed?.()
    # Before, and by a clock that is ahead.
    for at <- [now - 10, now + 100] do
      File.touch!(path, at)
      refute changed?.()
    end

    noted = State.noted(%{"ours" => [path]}, now)
    File.touch!(path, now - 5)
    assert State.stale(%State{own: noted}) == ["ours"]
  end
end
