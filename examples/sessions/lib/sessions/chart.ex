defmodule Sessions.Chart do
  @moduledoc "A matplotlib figure as the bytes of a PNG: for a controller's `send_resp/3`, a file, or a Livebook image."

  @doc "A line through some points."
  def png(points, title) do
    {xs, ys} = Enum.unzip(points)
    Matplotlib.use!("agg")
    figure = Matplotlib.Figure.Figure.new!(figsize: {6, 3.0}, layout: "constrained")
    axes = Matplotlib.Figure.Figure.subplots!(figure)
    SnakeBridge.call_method!(axes, :plot, [xs, ys], marker: "o")
    SnakeBridge.call_method!(axes, :set_title, [title])
    buffer = Io.BytesIO.new!()
    Matplotlib.Figure.Figure.savefig!(figure, buffer, format: "png", dpi: 100)
    Io.BytesIO.getvalue!(buffer, __runtime__: [bytes: :binary])
  end
end
