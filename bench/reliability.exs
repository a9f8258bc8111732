# One caller and one worker: the same call plain and idempotent, in turns, with a journal that survives processes and one that survives power.
Code.require_file("row.exs", __DIR__)

directory = Path.join(System.tmp_dir!(), "bench-reliability-#{System.pid()}")
median = fn durations -> durations |> Enum.sort() |> Enum.at(div(length(durations), 2)) end

for {id, durability, n} <- [{"journal_us", :process, 2_000}, {"journal_fsync_us", :power, 500}] do
  journal = [path: Path.join(directory, "#{durability}.journal"), durability: durability]
  {:ok, pool} = SnakeBridge.Pool.start_link(name: durability, size: 1, journal: journal)
  plain = fn -> {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: durability) end
  recorded = fn -> {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: durability, idempotent: true) end
  for call <- [plain, recorded], do: Bench.each(500, call)

  rounds = for _ <- 1..9, do: {median.(Bench.each(n, plain)), median.(Bench.each(n, recorded))}
  cost = median.(for {without, with} <- rounds, do: with - without)
  ratio = median.(for {without, with} <- rounds, do: with / without)
  Bench.row(id, cost, "us", 9 * n, nil, nil, ratio, "the same call without a key")
  Supervisor.stop(pool)
end

File.rm_rf!(directory)
