defmodule SessionsTest do
  use ExUnit.Case, async: true

  alias Sessions.{Chart, Digits, Sales, Wine}

  test "a pipeline is fitted once and answers for as long as its session lives" do
    wine = start_supervised!(Wine)
    assert {:ok, score} = Wine.score(wine)
    assert score > 0.9
    row = [13.2, 1.8, 2.1, 11.2, 100, 2.6, 2.8, 0.26, 1.3, 4.4, 1.05, 3.4, 1050]
    assert {:ok, [0]} = Wine.classify(wine, [row])
    # Any process may ask.
    assert {:ok, [0, 0]} = Task.await(Task.async(fn -> Wine.classify(wine, [row, row]) end), 60_000)
  end

  @tag :capture_log
  test "a killed worker costs the pipeline a moment: it is fitted again" do
    wine = start_supervised!(Wine)
    assert {:ok, before} = Wine.score(wine)
    SnakeBridge.Session.call(wine, fn _ -> SnakeBridge.call("os", "_exit", [9]) end)
    assert {:ok, ^before} = Wine.score(wine)
  end

  test "a JAX model is trained over many calls, and stays on its device" do
    digits = start_supervised!(Digits)
    me = self()
    assert {:ok, first} = Digits.train(digits, epochs: 1, on_epoch: &send(me, {:epoch, &1}))
    assert_received {:epoch, %{"epoch" => 1, "loss" => loss}}
    assert loss > 0
    assert {:ok, second} = Digits.train(digits, epochs: 5)
    assert second > first and second > 0.95
    assert {:ok, device} = Digits.device(digits)
    assert device =~ ~r/^(cpu|cuda|gpu)/i
    blank = List.duplicate(0.0, 64)
    assert {:ok, [digit, digit]} = Digits.recognise(digits, [blank, blank])
    assert digit in 0..9
  end

  test "a table goes to pandas and back" do
    rows = [
      %{"region" => "north", "units" => 3},
      %{"region" => "south", "units" => 9},
      %{"region" => "north", "units" => 4}
    ]

    assert [{"south", 9}, {"north", 7}] = Sales.by_region(rows)

    columns = %{"name" => ["Ada", nil], "score" => [1.5, 2.5], "day" => [~D[2026-01-01], ~D[2026-01-02]]}
    assert {%SnakeBridge.Arrow{}, true} = Sales.round_trip(columns)
  end

  test "a figure arrives as a PNG" do
    assert <<0x89, "PNG\r\n", 0x1A, ?\n, _::binary>> = png = Chart.png([{1, 1}, {2, 4}, {3, 9}], "squares")
    assert byte_size(png) > 5_000
    # IHDR: 600 x 300
    assert <<_::binary-16, 600::32, 300::32, _::binary>> = png
  end
end
