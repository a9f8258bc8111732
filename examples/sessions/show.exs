# The four examples, one after the other.   mix run show.exs
alias Sessions.{Chart, Digits, Sales, Wine}

{:ok, wine} = Wine.start_link()
{:ok, score} = Wine.score(wine)

IO.puts(
  "wine     a random forest classifies #{Float.round(100 * score, 1)} % of the wines that it has not seen"
)

{:ok, digits} = Digits.start_link()
{:ok, device} = Digits.device(digits)

show = fn e ->
  IO.puts(
    "digits   epoch #{e["epoch"]}: loss #{Float.round(e["loss"], 3)}, accuracy #{Float.round(100 * e["accuracy"], 1)} %"
  )
end

{:ok, _} = Digits.train(digits, epochs: 5, on_epoch: show)
IO.puts("digits   the parameters are on #{device}")

rows =
  for {region, units} <- [{"north", 3}, {"south", 9}, {"north", 4}],
      do: %{"region" => region, "units" => units}

IO.puts("sales    #{inspect(Sales.by_region(rows))}")

png = Chart.png(for(x <- 0..10, do: {x, x * x}), "squares")
File.mkdir_p!("out")
File.write!("out/squares.png", png)
IO.puts("chart    #{byte_size(png)} bytes in out/squares.png")
