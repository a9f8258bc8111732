Logger.configure(level: :error)

# One small pool of real workers for all tests; user code for them is tests/python/sample.py.
python = System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")
# Where examples of the docs put the Python modules that they call.
docs = Path.join(System.tmp_dir!(), "snakebridge-docs-#{System.pid()}")
File.mkdir_p!(docs)
System.put_env("SNAKEBRIDGE_DOCS_PYTHON", docs)
path = Enum.join([Path.expand("tests/python"), docs], ":")
# Tests run lines of Python where a module of their own would say no more.
policy = [allow: ["builtins.eval", "builtins.exec"]]
env = [{"PYTHONPATH", path}, {"BRIDGE_ADAPTER_FLOW_RUNS", Path.join(docs, "runs")}]
options = [size: 2, python: python, env: env, kill_after: 2_000, policy: policy]
# Tests kill these workers far more often than a breaker lets pass.
options = Keyword.put(options, :breaker, false)
# The application started with the defaults before this file was read.
:ok = Application.stop(:snakebridge)
Application.put_env(:snakebridge, :pools, default: options, single: Keyword.put(options, :size, 1))
{:ok, _} = Application.ensure_all_started(:snakebridge)
# The machine may have other things to do: what comes late is no failure.
ExUnit.start(timeout: 240_000, assert_receive_timeout: 60_000)

# Some tests kill whole BEAMs; the next directory that is made for shared memory removes theirs.
ExUnit.after_suite(fn _ ->
  File.rm_rf!(docs)

  with path when is_binary(path) <- SnakeBridge.Shared.directory(),
       {:ok, made} <- SnakeBridge.Shared.Directory.make(Path.dirname(path)),
       do: File.rm_rf(made)
end)
