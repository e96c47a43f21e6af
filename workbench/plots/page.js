(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const template = read("template");
  const config = read("config");
  for (const plot of document.querySelectorAll("[data-figure]")) {
    const figure = read(plot.dataset.figure);
    Plotly.newPlot(plot, figure.data, { ...figure.layout, template }, config);
  }
  for (const place of document.querySelectorAll("[data-view]")) {
    const choice = JSON.parse(place.dataset.choice);
    workbenchView.mount(place, read(place.dataset.view), { Plotly, template, config, choice });
  }
})();
