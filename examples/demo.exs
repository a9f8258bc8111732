# The whole of it in one program: values, a class in a session, a lazy stream, a callback, a real job that reports as it goes, and a
# language model.
#
#     make demo            or: mix run examples/demo.exs [--cancel-after BLOCKS]

defmodule Demo do
  @moduledoc false

  @out "out"
  @width 28

  def run(args) do
    {options, _, _} = OptionParser.parse(args, strict: [cancel_after: :integer])
    # Who wants to see a cancellation wants to see only that.
    parts = if options[:cancel_after], do: [restoration(options)], else: parts(options)
    {us, _} = :timer.tc(fn -> Enum.each(parts, &part/1) end)
    IO.puts("\nDone in #{Float.round(us / 1.0e6, 1)} s.")
  end

  defp parts(options) do
    [
      {"Values: out to Python and back, equal and of the same type", &values/0},
      {"A class, its methods and attributes, in a session", &session/0},
      {"A lazy stream: Python counts forever, Elixir takes what it wants", &stream/0},
      {"A callback: Python calls Elixir, which calls Python", &callback/0},
      restoration(options),
      {"A language model (SmolLM2-135M, in JAX) answers, word by word", &converse/0}
    ]
  end

  defp restoration(options),
    do: {"Restoring a photograph with JAX, watched from Elixir", fn -> restore(options) end}

  defp part({title, code}) do
    IO.puts(IO.ANSI.format(["\n", :bright, title]))
    code.()
  end

  # --- values ---

  defp values do
    for {term, note} <- samples() do
      # copy.copy hands a value back; type() of it tells what Python saw.
      back = SnakeBridge.call!("copy", "copy", [term])
      seen = SnakeBridge.call!("builtins", "type", [term]) |> SnakeBridge.get_attr!("__name__")
      mark = if back === term, do: "same", else: "CHANGED to #{inspect(back)}"
      shown = inspect(term, limit: 3, printable_limit: 18) |> String.slice(0, 44)

      IO.puts(
        "  #{String.pad_trailing(shown, 46)} #{String.pad_trailing(seen, 10)} #{String.pad_trailing(note, 22)} #{mark}"
      )
    end
  end

  defp samples do
    [
      {nil, "null is null"},
      {2 ** 200, "integers of any size"},
      {-0.0, "signed zero"},
      {:infinity, "special floats"},
      {"grün", "text"},
      {SnakeBridge.bytes(<<0, 255>>), "bytes"},
      {<<255, 254>>, "not UTF-8"},
      {:some_atom, "an atom, and a str"},
      {[a: 1, b: 2], "a keyword list"},
      {{1, {2, 3}}, "tuples"},
      {%{1 => "int key", {1, 2} => "tuple key"}, "maps with any keys"},
      {MapSet.new([1, 2, 3]), "sets"},
      {~U[2026-01-02 03:04:05.000006Z], "aware datetime"},
      {~N[2026-01-02 03:04:05], "naive datetime"},
      {~D[2026-01-02], "date"},
      {%SnakeBridge.Complex{real: 1.5, imag: -2.0}, "complex"},
      {10..1//-3, "ranges with a step"},
      {%SnakeBridge.TimeDelta{days: 1, seconds: 30, microseconds: 0}, "Python's own types"},
      {%{1 => :a, 1.0 => :b, true => :c}, "clashing keys"},
      {self(), "opaque, signed"},
      {[1 | <<3::2>>], "and even this"},
      {%SnakeBridge.Tensor{
         dtype: "float32",
         shape: {2},
         data: <<0.5::float-32-little, 1.5::float-32-little>>
       }, "numpy array"}
    ]
  end

  # --- a session ---

  defp session do
    {:ok, session} = SnakeBridge.create_session()

    SnakeBridge.in_session(session, fn ->
      iq = SnakeBridge.call!("statistics", "NormalDist", [100, 15])
      IO.puts("  #{inspect(iq)}  (the object stays in Python)")
      IO.puts("  mean      #{SnakeBridge.get_attr!(iq, :mean)}")
      IO.puts("  cdf(130)  #{Float.round(SnakeBridge.call_method!(iq, :cdf, [130]), 4)}")

      # A namespace is data and would come as a value; what shall be changed in place stays in Python.
      note = SnakeBridge.call!("types", "SimpleNamespace", [], title: "draft", __runtime__: [result: :ref])
      :ok = SnakeBridge.set_attr(note, :title, "final")
      IO.puts("  title     #{SnakeBridge.get_attr!(note, :title)}  (set from Elixir)")
    end)

    :ok = SnakeBridge.close_session(session)
    IO.puts("  session closed, its objects are gone")
  end

  # --- a stream ---

  defp stream do
    taken =
      SnakeBridge.stream("itertools", "count", [1])
      |> Stream.map(&(&1 * &1))
      |> Stream.filter(&(rem(&1, 7) == 2))
      |> Enum.take(8)

    IO.puts("  #{inspect(taken)}")
  end

  # --- a callback ---

  defp callback do
    add_root = fn total, x -> total + SnakeBridge.call!("math", "sqrt", [x]) end
    sum = SnakeBridge.call!("functools", "reduce", [add_root, [1, 4, 9, 16], 0])
    IO.puts("  functools.reduce(&(total + math.sqrt(x)), [1, 4, 9, 16])  =  #{sum}")
  end

  # --- the main job ---

  defp restore(options) do
    flow = "bridge_adapter.kernels.flow"
    long = [timeout: 60_000]
    photo = SnakeBridge.call!("skimage.data", "camera", [], __runtime__: long)
    clean = SnakeBridge.call!("numpy", "divide", [photo, 255.0])
    blurred = SnakeBridge.call!(flow, "degrade", [clean, 2.0, 0.02], seed: 7, __runtime__: long)
    before = SnakeBridge.call!(flow, "psnr", [blurred, clean])
    IO.puts("  skimage.data.camera(), 512 x 512, blurred (sigma 2.0) and noised (sigma 0.02): #{db(before)}")

    IO.puts(
      "  minimising 1/2 |k*x - y|^2 + lambda TV(x) by FISTA, one jitted block of steps between reports\n"
    )

    progress = fn info ->
      draw(info, before)
      if info["block"] >= Keyword.get(options, :cancel_after, 1_000_000), do: :cancel, else: :continue
    end

    result =
      SnakeBridge.call!(flow, "restore", [blurred],
        blur_sigma: 2.0,
        block: 4,
        reference: clean,
        on_progress: progress,
        __runtime__: [timeout: 120_000]
      )

    IO.puts("\n")
    path = save(flow, clean, blurred, result)
    gain = result["psnr"] - before

    IO.puts(
      "  stopped: #{result["stopped"]} after #{result["iteration"]} iterations on #{result["device"]}, #{Float.round(result["elapsed_s"], 2)} s"
    )

    IO.puts(IO.ANSI.format(["  PSNR #{db(before)} -> #{db(result["psnr"])}, gain ", :bright, "+#{db(gain)}"]))

    IO.puts("  before, after, difference: #{path}")

    unless Keyword.has_key?(options, :cancel_after) or gain > 1.5,
      do: raise("the restoration gained only #{db(gain)}")
  end

  defp draw(info, before) do
    share = info["iteration"] / info["iterations"]
    full = round(share * @width)
    bar = String.duplicate("#", full) <> String.duplicate("-", @width - full)
    energy = :io_lib.format("~.4f", [info["energy"]])

    IO.write(
      "\r  [#{bar}] #{info["iteration"]}/#{info["iterations"]}  energy #{energy}  PSNR #{db(info["psnr"])} (+#{db(info["psnr"] - before)})  "
    )
  end

  defp save(flow, clean, blurred, result) do
    File.mkdir_p!(@out)
    difference = SnakeBridge.call!(flow, "difference", [result["image"], clean])
    images = [blurred, result["image"], difference]
    titles = ["blurred and noised", "restored", "error x 4"]
    SnakeBridge.call!(flow, "save_panel", [Path.expand("#{@out}/restoration.png"), images], titles: titles)
  end

  # --- a language model ---

  defp converse do
    python = Path.expand("generate/python", __DIR__)
    {:ok, _} = SnakeBridge.Pool.start_link(name: :llm, size: 1, env: [{"PYTHONPATH", python}])
    model = SnakeBridge.call!("smollm", "load", [], slots: 1, pool: :llm, __runtime__: [timeout: 120_000])
    question = "Why is the sky blue? Answer in one sentence."
    IO.write("  #{question}\n  > ")
    messages = [%{"role" => "user", "content" => question}]

    SnakeBridge.stream(model, :generate, [messages],
      max_tokens: 60,
      callback: fn
        {:chunk, piece} -> piece |> String.replace("\n", "\n    ") |> IO.write()
        {:done, stats} -> IO.puts("\n  #{stats["tokens"]} tokens, then #{stats["finish_reason"]}")
        {:error, error} -> raise error
      end
    )
  end

  defp db(value), do: "#{:io_lib.format("~.2f", [value])} dB"
end

Demo.run(System.argv())
