# Calls generated functions and compares with the same call without a wrapper: `callable_ratio`.
Code.require_file("row.exs", __DIR__)
Logger.configure(level: :error)

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
  :re
]

# They write files, read them, print, run for minutes, or never answer the same twice.
left_out =
  ~r/^(test|save|load|from|gen|mem|show|info|set|empty|print|get|put|copyto|place|bench|err|byte_bounds|input)/

matrix = [[4.0, 1.0], [1.0, 3.0]]

tried = [
  [],
  [2.5],
  [3],
  [matrix],
  [[3, 1, 2]],
  ["[1, 2]"],
  [[3, 1, 2], [1, 2, 3]],
  [matrix, matrix],
  [6, 4],
  [0.5, 2.0],
  [matrix, 1],
  [[3, 1, 2], 1, 2],
  [[1.0, 2.0], [0.0, 1.0, 3.0], [5.0, 6.0, 7.0]],
  [0.5, 0.1, 0.9]
]

options = [__runtime__: [timeout: 10_000]]

results =
  for library <- libraries,
      [module | _] =
        SnakeBridge.Generator.define([{library, []}]) |> Enum.sort_by(&String.length(inspect(&1))),
      {name, _, _} <- module.__functions__(),
      text = Atom.to_string(name),
      not (text =~ left_out),
      {arguments, expected} <-
        Enum.find_value(tried, [], fn arguments ->
          with {:ok, value}
               when not is_struct(value, SnakeBridge.Ref) and not is_struct(value, SnakeBridge.StreamRef) <-
                 SnakeBridge.call(to_string(library), text, arguments, options),
               do: [{arguments, value}],
               else: (_ -> nil)
        end) do
    same? =
      try do
        apply(module, name, arguments ++ [options]) == {:ok, expected}
      rescue
        UndefinedFunctionError -> false
      end

    unless same?, do: IO.puts("NOTE\t#{inspect(module)}.#{name} differs with #{inspect(arguments)}")
    {library, same?}
  end

for {library, results} <- Enum.group_by(results, &elem(&1, 0)) do
  IO.puts(
    "NOTE\t#{library}: #{Enum.count(results, &elem(&1, 1))} of #{length(results)} functions called answer as without wrapper"
  )
end

same = Enum.count(results, &elem(&1, 1))
Bench.row("callable_ratio", same / length(results), "x", length(results))
