# One caller and one worker: the same call plain, idempotent and with a key, in turns, with a journal that survives processes and one that survives power.
Code.require_file("row.exs", __DIR__)

directory = Path.join(System.tmp_dir!(), "bench-reliability-#{System.pid()}")
median = fn durations -> durations |> Enum.sort() |> Enum.at(div(length(durations), 2)) end

suites = [
  {:process, [idempotent: "retry_us", key: "journal_us"], 2_000},
  {:power, [key: "journal_fsync_us"], 500}
]

for {durability, rows, n} <- suites do
  journal = [path: Path.join(directory, "#{durability}.journal"), durability: durability]
  {:ok, pool} = SnakeBridge.Pool.start_link(name: durability, size: 1, journal: journal)

  options = fn
    :plain -> []
    :idempotent -> [idempotent: true]
    :key -> [idempotency_key: "call #{System.unique_integer([:positive])}"]
  end

  call = fn way ->
    {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], [pool: durability] ++ options.(way))
  end

  ways = [:plain | Keyword.keys(rows)]
  for way <- ways, do: Bench.each(500, fn -> call.(way) end)
  rounds = for _ <- 1..9, do: Map.new(ways, &{&1, median.(Bench.each(n, fn -> call.(&1) end))})

  for {way, id} <- rows do
    cost = median.(for round <- rounds, do: round[way] - round.plain)
    ratio = median.(for round <- rounds, do: round[way] / round.plain)
    Bench.row(id, cost, "us", 9 * n, nil, nil, ratio, "the same call without a key")
  end

  Supervisor.stop(pool)
end

File.rm_rf!(directory)
