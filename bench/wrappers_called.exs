# Calls generated functions and compares with the same call without a wrapper: `callable_ratio`.
Code.require_file("row.exs", __DIR__)
Code.require_file("called.exs", __DIR__)
Logger.configure(level: :error)

# The names of a module are asked for in a line of Python.
:ok = Application.stop(:snakebridge)
Application.put_env(:snakebridge, :pools, default: [policy: [allow: ["builtins.eval"]]])
{:ok, _} = Application.ensure_all_started(:snakebridge)

alias Bench.Called

libraries = [
  :numpy,
  "numpy.linalg",
  "numpy.fft",
  "scipy.linalg",
  "jax.numpy",
  :math,
  :statistics,
  :operator,
  :json,
  :re,
  :datetime
]

calls = Enum.flat_map(libraries, &Called.calls/1)

for {library, calls} <- Enum.group_by(calls, & &1.library) do
  {same, different} = Enum.split_with(calls, &Called.same?/1)
  for call <- different, do: IO.puts("NOTE\t#{Called.difference(call)}")

  IO.puts("NOTE\t#{library}: #{length(same)} of #{length(calls)} functions called answer as without wrapper")
end

same = Enum.count(calls, &Called.same?/1)
Bench.row("callable_ratio", same / length(calls), "x", length(calls))
